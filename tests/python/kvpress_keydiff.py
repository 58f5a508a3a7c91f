"""Makes goldens/kvpress_keydiff.safetensors: a tiny random Llama, and which entries the Python package kvpress keeps of it.

Run it only to change the golden; the Rust test reads the committed file alone:

    python3 -m venv VENV && VENV/bin/pip install "kvpress==0.5.5" "transformers<5.3" safetensors
    VENV/bin/python kvpress_keydiff.py

kvpress prunes once, after a whole prompt, so it meets Spotter's definition where a prompt is a single block: same model,
same keys, same kept set. Its kept rows come in the order of their scores; they are sorted here.
"""

import json
from pathlib import Path

import torch
from kvpress import KeyDiffPress
from safetensors.torch import save_file
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

OUT = Path(__file__).resolve().parent.parent / "goldens" / "kvpress_keydiff.safetensors"
LENGTH = 60
RATIOS = [0.25, 0.5, 0.8]


class Recorder(KeyDiffPress):
    """Remembers which rows stay in each layer, found again by their bits."""

    def compress(self, module, hidden_states, keys, values, attentions, kwargs):
        kept_keys, kept_values = super().compress(module, hidden_states, keys, values, attentions, kwargs)
        same = (kept_keys[0].unsqueeze(2) == keys[0].unsqueeze(1)).all(-1)
        assert (same.sum(-1) == 1).all(), "two rows are alike"
        RECORD.append(same.int().argmax(-1).sort(-1).values)
        return kept_keys, kept_values


RECORD = []


def main():
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        attn_implementation="eager",
        initializer_range=0.2,
    )
    model = LlamaForCausalLM(config).eval()
    ids = torch.randint(0, 64, (1, LENGTH))
    tensors = {name: t.detach().clone() for name, t in model.state_dict().items() if name != "lm_head.weight"}
    tensors["golden.ids"] = ids[0].to(torch.uint32)
    for ratio in RATIOS:
        RECORD.clear()
        press = Recorder(compression_ratio=ratio)
        with torch.no_grad(), press(model):
            model(ids, past_key_values=DynamicCache(), cache_position=torch.arange(LENGTH))
        kept = torch.stack(RECORD).to(torch.uint32)
        tensors[f"golden.kept.{kept.shape[-1]}"] = kept
        print(ratio, tuple(kept.shape))
    metadata = {"config": json.dumps(config.to_dict(), default=str)}
    save_file({name: t.contiguous() for name, t in tensors.items()}, OUT, metadata=metadata)
    print(OUT.name, OUT.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
