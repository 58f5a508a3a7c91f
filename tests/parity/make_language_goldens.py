"""Makes the tiny random language models under goldens/ and what the Python package transformers computes for them.

Run as make_goldens.py; it needs the same packages.

    hyperclovax   HyperCLOVA X SEED Think: multipliers and Peri-LN, all settings of both
    seed-text     HyperCLOVA X SEED Text: a plain Llama with a tied head
"""

import json
import shutil

import torch
from safetensors.torch import save_file
from transformers import HyperCLOVAXConfig, HyperCLOVAXForCausalLM, LlamaConfig, LlamaForCausalLM

from make_goldens import HERE, STEPS, VOCAB, make_tokenizer, randomise

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|endofturn|>", "<|stop|>", "<image>"]
# In the manner of the model cards: a block of tools and one of instructions even where there are none.
SEED_TEMPLATE = """\
{% if tool_list is defined and tool_list %}
{{ '<|im_start|>tool_list\\n' + tool_list + '<|im_end|>\\n' }}
{%- else %}
{{ '<|im_start|>tool_list\\n<|im_end|>\\n' }}
{%- endif %}
{% set ns = namespace(system=false) %}
{% for message in messages %}
{%- if message['role'] == 'system' %}{% set ns.system = true %}{% endif %}
{%- endfor %}
{%- if not ns.system %}
{{- '<|im_start|>system\\n<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' }}
{%- if message['role'] == 'assistant' %}{{- '<|endofturn|>' }}{% endif %}
{{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}
"""
CONVERSATIONS = {
    "plain": [{"role": "user", "content": "How is this squat?"}],
    "turns": [
        {"role": "system", "content": "You coach. 짧게 말하세요."},
        {"role": "user", "content": "무릎을 굽히고 허리를 펴세요?"},
        {"role": "assistant", "content": "좋아요, 하나 더!"},
        {"role": "user", "content": "And now?"},
    ],
}


def run_case(name, model, end):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    model = model.eval()
    model.set_attn_implementation("eager")
    randomise(model, seed=sum(map(ord, name)))
    if model.config.tie_word_embeddings:
        model.tie_weights()
    tokenizer = make_tokenizer(SPECIALS, "<|endoftext|>", "<|im_end|>", False, SEED_TEMPLATE)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": end}) + "\n")
    out, facts = {}, {}
    for case, messages in CONVERSATIONS.items():
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0]
        rows = sorted({*range(0, len(logits), 9), len(logits) - 1})
        facts[case] = {"messages": messages, "prompt": prompt}
        out[f"{case}.input_ids"] = ids[0].to(torch.int32)
        out[f"{case}.rows"] = torch.tensor(rows, dtype=torch.int32)
        out[f"{case}.logits"] = logits[rows].contiguous()
        if case == "plain":
            out.update(steps(model, ids))
    (folder / "golden.json").write_text(json.dumps(facts, ensure_ascii=False, indent=1) + "\n")
    print(name, "logits of", float(out["plain.logits"].abs().mean()), "prompt", len(out["turns.input_ids"]), "tokens")
    return folder, out


def steps(model, ids):
    """Greedy tokens one at a time through the cache of transformers."""
    with torch.no_grad():
        result = model(input_ids=ids, use_cache=True)
        chosen, rows = [], []
        for _ in range(STEPS):
            chosen.append(int(result.logits[0, -1].argmax()))
            result = model(
                input_ids=torch.tensor([[chosen[-1]]]), past_key_values=result.past_key_values, use_cache=True
            )
            rows.append(result.logits[0, -1])
    return {"steps.ids": torch.tensor(chosen, dtype=torch.int32), "steps.logits": torch.stack(rows)}


def settings(model, ids):
    """The last logits under each setting: bit 0 embedding, 1 attention, 2 residual, 3 logits, 4 norms behind."""
    rows = []
    for bits in range(32):
        config = HyperCLOVAXConfig(**model.config.to_dict())
        if not bits & 1:
            config.embedding_multiplier = 1.0
        if not bits & 2:
            config.attention_multiplier = config.head_dim**-0.5
        if not bits & 4:
            config.residual_multiplier = 1.0
        if not bits & 8:
            config.logits_scaling = 1.0
        config.use_post_norm = bool(bits & 16)
        other = HyperCLOVAXForCausalLM(config).eval()
        other.set_attn_implementation("eager")
        other.load_state_dict(model.state_dict(), strict=config.use_post_norm)
        with torch.no_grad():
            rows.append(other(input_ids=ids).logits[0, -1])
    return torch.stack(rows)


def main():
    torch.set_num_threads(1)
    size = dict(vocab_size=VOCAB, hidden_size=32, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4)
    model = HyperCLOVAXForCausalLM(
        HyperCLOVAXConfig(
            num_key_value_heads=2, head_dim=12, max_position_embeddings=512, rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": 5e7}, bos_token_id=0, eos_token_id=2,
            embedding_multiplier=2.5, attention_multiplier=0.17, residual_multiplier=0.6, logits_scaling=0.35,
            use_post_norm=True, attention_bias=True, **size,
        )
    )
    folder, out = run_case("hyperclovax", model, [0, 4])
    out["settings"] = settings(model, out["plain.input_ids"][None].long())
    save_file(out, folder / "golden.safetensors")
    model = LlamaForCausalLM(
        LlamaConfig(
            num_key_value_heads=1, max_position_embeddings=512, rms_norm_eps=1e-5, tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": 500000.0}, bos_token_id=0, eos_token_id=0, **size,
        )
    )
    folder, out = run_case("seed-text", model, 4)
    save_file(out, folder / "golden.safetensors")


if __name__ == "__main__":
    main()
