"""Makes a tiny random checkpoint under goldens/live-stream in the layout of VideoLLM-online, and what a plain loop over
transformers and peft makes of a stream with it.

Run as make_goldens.py; it needs peft as well. The folder holds the adapter (with the connector saved whole, and a tokenizer with
the place of a visual token behind the vocabulary), `base` the Llama, and `vision` a whole SigLIP, of which the tower is used.

After each frame the loop reads the probability of the separator: at 0.725 and more the stream goes on, below it the bracket is
closed and the model speaks until it ends its turn. golden.safetensors has the frames, the pooled tokens of the tower, and the logits
and probabilities after each frame; golden.json what stood before each frame and what was said after it.
"""

import json

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, SiglipConfig, SiglipModel

from make_adapter_goldens import fresh, keep, loosen
from make_goldens import HERE, VOCAB, make_tokenizer, picture, randomise

FRAMES, SIDE, GRID = 12, 28, 3
THRESHOLD = 0.725
MOST = 8
SPECIALS = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
TEMPLATE = "{{ bos_token }}{% for message in messages %}{{ message['content'] }}{{ eos_token }}{% endfor %}"
PROMPT = "<|begin_of_text|>Frames of a video come in.\n\nUser: Tell me what to do better.\n["
LEAD, AGAIN, SEPARATOR = "]\nAssistant:", "\n[", ","


class Live(LlamaForCausalLM):
    """VideoLLM-online's names: a connector beside a Llama."""

    def __init__(self, config):
        super().__init__(config)
        self.connector = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 32))


def make_model():
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, rms_norm_eps=1e-5, bos_token_id=0, eos_token_id=1,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
    )
    model = Live(config).eval()
    model.set_attn_implementation("eager")
    randomise(model, 16)
    lora = LoraConfig(
        r=8, lora_alpha=16, modules_to_save=["connector"], task_type="CAUSAL_LM",
        target_modules="model.*(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)|lm_head$",
    )
    model = get_peft_model(model, lora).eval()
    loosen(model, 17)
    return config, model


def make_tower():
    vision = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=SIDE, patch_size=4)
    text = dict(vocab_size=8, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2)
    whole = SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).eval()
    whole.set_attn_implementation("eager")
    randomise(whole, 18)
    return whole


def features(whole, frames):
    """The token of SigLIP's head, then the means of a grid of its patches: [n, 1 + GRID * GRID, width]."""
    pixels = (frames.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    out = whole.vision_model(pixels)
    patches = out.last_hidden_state
    side = int(patches.shape[1] ** 0.5)
    plane = patches.reshape(len(patches), side, side, -1).permute(0, 3, 1, 2)
    means = F.adaptive_avg_pool2d(plane, GRID).flatten(2).permute(0, 2, 1)
    return torch.cat([out.pooler_output[:, None], means], 1)


class Stream:
    """One stream through a model's cache."""

    def __init__(self, model, tokenizer):
        self.model, self.cache = model, DynamicCache()
        self.ids = lambda text: tokenizer(text, add_special_tokens=False).input_ids

    def read(self, ids, seen=None):
        parts = [self.model.get_input_embeddings()(torch.tensor([ids], dtype=torch.long))] if ids else []
        x = torch.cat(parts + ([] if seen is None else [seen[None]]), 1)
        return self.model(inputs_embeds=x, past_key_values=self.cache, use_cache=True).logits[0, -1]

    def speak(self, ends):
        """Ids that are said, whether the model ended them itself, and by how much the choices were clear."""
        said, clear, logits = [], 9.0, self.read(self.ids(LEAD))
        while len(said) < MOST:
            best = logits.topk(2)
            clear = min(clear, float(best.values[0] - best.values[1]))
            if int(best.indices[0]) in ends:
                return said, True, clear
            said.append(int(best.indices[0]))
            if len(said) < MOST:
                logits = self.read(said[-1:])
        return said, False, clear


def run(model, tokenizer, visual):
    """The loop: a row for each frame."""
    stream, rows = Stream(model, tokenizer), []
    (separator,) = stream.ids(SEPARATOR)
    end, ends = 2, (1, 2)
    before = stream.ids(PROMPT)
    for seen in visual:
        logits = stream.read(before, seen)
        p = logits.softmax(-1)
        silent = float(p[separator]) >= THRESHOLD and int(p.argmax()) == separator
        row = {"before": before, "logits": logits, "p": p[separator], "silent": silent, "said": [], "clear": 9.0}
        if silent:
            before = [separator]
        else:
            row["said"], ended, row["clear"] = stream.speak(ends)
            before = ([] if ended else row["said"][-1:]) + [end] + stream.ids(AGAIN)
        # A character whose bytes are not all there at the end is never shown.
        row["text"] = tokenizer.decode(row["said"], skip_special_tokens=True).rstrip("\ufffd")
        rows.append(row)
    return rows


def tune(model, tokenizer, visual):
    """A row of the head for the separator at which some frames are silent and some are not, none of them narrowly."""
    (separator,) = tokenizer(SEPARATOR, add_special_tokens=False).input_ids
    body, head = model.base_model.model.model, model.base_model.model.lm_head.base_layer
    ids = tokenizer(PROMPT, add_special_tokens=False).input_ids
    x = torch.cat([model.get_input_embeddings()(torch.tensor([ids])), visual.flatten(0, 1)[None]], 1)
    hidden = body(inputs_embeds=x).last_hidden_state[0, len(ids) + visual.shape[1] - 1 :: visual.shape[1]]
    direction = F.normalize(hidden.mean(0), dim=0)
    for step in range(120):
        head.weight.data[separator] = direction * (3 + 0.02 * step)
        rows = run(model, tokenizer, visual)
        clear = all(abs(float(r["p"]) - THRESHOLD) > 0.01 and r["clear"] > 0.002 for r in rows)
        words = all(r["silent"] or r["text"].strip() for r in rows)
        if 4 <= sum(r["silent"] for r in rows) <= FRAMES - 3 and clear and words:
            return rows
    raise SystemExit("no weight of the separator gives a stream with both; take another seed")


@torch.no_grad()
def main():
    folder = fresh("live-stream")
    config, model = make_model()
    whole = make_tower()
    plain = make_tokenizer(SPECIALS, "<|begin_of_text|>", "<|eot_id|>", True, TEMPLATE, image="<|eot_id|>")
    tokenizer = make_tokenizer(SPECIALS, "<|begin_of_text|>", "<|eot_id|>", True, TEMPLATE, image="<v>")
    assert tokenizer.convert_tokens_to_ids("<v>") == VOCAB, "behind the vocabulary"
    frames = torch.stack([torch.tensor(list(picture(SIDE, SIDE, 30 + i).tobytes()), dtype=torch.uint8) for i in range(FRAMES)])
    frames = frames.reshape(FRAMES, SIDE, SIDE, 3)
    pooled = features(whole, frames)
    visual = model.base_model.model.connector(pooled)
    rows = tune(model, tokenizer, visual)

    bare = LlamaForCausalLM(config)
    state = model.base_model.model.state_dict()
    own = {k.replace(".base_layer", ""): v for k, v in state.items() if "lora_" not in k and "connector" not in k}
    bare.load_state_dict(own)
    bare.save_pretrained(folder / "base")
    (folder / "base" / "generation_config.json").unlink(missing_ok=True)
    plain.save_pretrained(folder / "base")
    whole.save_pretrained(folder / "vision")
    keep(folder, model)
    tokenizer.save_pretrained(folder)
    save_file(
        {
            "frames": frames.contiguous(),
            "pooled": pooled.contiguous(),
            "logits": torch.stack([r["logits"] for r in rows]).contiguous(),
            "p_silent": torch.stack([r["p"] for r in rows]).contiguous(),
        },
        folder / "golden.safetensors",
    )
    facts = {"prompt": PROMPT, "frames": [{k: r[k] for k in ("before", "silent", "said", "text")} for r in rows]}
    (folder / "golden.json").write_text(json.dumps(facts, ensure_ascii=False, indent=1) + "\n")
    print([f"{float(r['p']):.3f}" for r in rows], [r["text"] for r in rows if not r["silent"]])


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
