"""Makes tiny random LoRA adapters under goldens/ as the Python package peft saves them, and what it computes with them.

Run as make_goldens.py, after it; it needs peft as well.

    clip-llama-lora   on goldens/clip-llama, which it names by a path: decoder, tower, projector, ranks and scales of their own
    live-lora         in the layout of VideoLLM-online on a Llama in its folder `base`: the head too, and a connector saved whole
"""

import json
import shutil

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, LlavaForConditionalGeneration

from make_goldens import HERE, VOCAB, make_tokenizer, randomise
from make_language_goldens import SEED_TEMPLATE, SPECIALS


def loosen(model, seed):
    """PEFT begins with a product of zero."""
    gen = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        if "lora_" in name:
            p.data = torch.randn(p.shape, generator=gen) * 0.2


def fresh(name):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def keep(folder, model):
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)


def llava():
    folder, base = fresh("clip-llama-lora"), HERE / "clip-llama"
    model = LlavaForConditionalGeneration.from_pretrained(base).eval()
    model.set_attn_implementation("eager")
    targets = r".*(language_model.*(q_proj|down_proj)|vision_tower.*v_proj|linear_1|embed_tokens)"
    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, rank_pattern={"down_proj": 2}, alpha_pattern={"q_proj": 3})
    model = get_peft_model(model, config)
    loosen(model, 5)
    keep(folder, model)
    path = folder / "adapter_config.json"
    settings = json.loads(path.read_text())
    settings["base_model_name_or_path"] = "../clip-llama"
    path.write_text(json.dumps(settings, indent=1) + "\n")
    golden = load_file(base / "golden.safetensors")
    ids = golden["image.input_ids"][None].long()
    with torch.no_grad():
        logits = model(input_ids=ids, pixel_values=golden["image.pixel_values"]).logits[0]
    save_file({"logits": logits[::5].contiguous()}, folder / "golden.safetensors")


class Live(LlamaForCausalLM):
    """VideoLLM-online's names: a connector beside a Llama."""

    def __init__(self, config):
        super().__init__(config)
        self.connector = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 32))


def live():
    folder = fresh("live-lora")
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, rms_norm_eps=1e-5, bos_token_id=0, eos_token_id=0,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
    )
    model = Live(config).eval()
    model.set_attn_implementation("eager")
    randomise(model, 6)
    bare = LlamaForCausalLM(config)
    bare.load_state_dict({k: v for k, v in model.state_dict().items() if "connector" not in k})
    bare.save_pretrained(folder / "base")
    (folder / "base" / "generation_config.json").unlink(missing_ok=True)
    make_tokenizer(SPECIALS, "<|endoftext|>", "<|im_end|>", False, SEED_TEMPLATE).save_pretrained(folder / "base")
    lora = LoraConfig(
        r=8, lora_alpha=16, modules_to_save=["connector"], task_type="CAUSAL_LM",
        target_modules="model.*(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)|lm_head$",
    )
    model = get_peft_model(model, lora).eval()
    loosen(model, 7)
    keep(folder, model)
    ids = torch.arange(0, 240, 7)
    with torch.no_grad():
        logits = model(input_ids=ids[None]).logits[0]
    connector = {k: v for k, v in model.state_dict().items() if "modules_to_save" in k and k.endswith("0.weight")}
    assert len(connector) == 1, list(connector)
    out = {"input_ids": ids.to(torch.int32), "logits": logits[::5].contiguous(), "connector": next(iter(connector.values()))}
    save_file({k: v.clone().contiguous() for k, v in out.items()}, folder / "golden.safetensors")
    print(sorted(load_file(folder / "adapter_model.safetensors"))[:4])


if __name__ == "__main__":
    torch.set_num_threads(1)
    llava()
    live()
