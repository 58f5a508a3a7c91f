"""LLaVA-1.5-7B's shape with random weights: a checkpoint to measure on a card, and what transformers makes of it.

    python3 scripts/llava_7b.py make DIR      writes 13.5 GiB in bf16; tokenizer and template are those of tests/parity, to which
                                              the words that are streamed are added, as a real vocabulary has them
    python3 scripts/llava_7b.py time DIR      one JSON line for a frame's decision and for each way of decoding, batch 1

Needs torch and transformers and an NVIDIA card.
"""

import json
import re
import shutil
import sys
import time
from pathlib import Path

import torch
from transformers import CLIPVisionConfig, DynamicCache, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

SMALL = Path(__file__).parent.parent / "tests" / "parity" / "goldens" / "clip-llama"
# What a streamed session reads of a frame: 576 tokens averaged to 8 x 8, twice a second, in a cache that KeyDiff bounds.
STREAMED = """lens = "none"
frame_rate = 2.0
context = 2048

[vision]
pooling = { average = 8 }

[speaking]
kind = "verbalisers"
question = " USER: Is there something to correct or to praise right now? Answer Yes or No. ASSISTANT:"
speak = ["Yes"]
silent = ["No"]
lead = " USER: Tell the person what to do better, in one short sentence. ASSISTANT:"

[prompt]
en = "<s>USER: You are a fitness coach watching {exercise}."
en_unnamed = "<s>USER: You are a fitness coach watching a person exercise."
ko = "<s>USER: You are a fitness coach watching {exercise}. Speak Korean."
ko_unnamed = "<s>USER: You are a fitness coach watching a person exercise. Speak Korean."

[cache]
policy = "keydiff"
budget = 1024
every = 256
block = 256

[defaults]
cooldown_seconds = 4.0
max_tokens = 24
"""


def config():
    small = json.loads((SMALL / "config.json").read_text())
    text = LlamaConfig(
        vocab_size=32064, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=32, max_position_embeddings=4096, rms_norm_eps=1e-5, tie_word_embeddings=False,
        bos_token_id=small["text_config"]["bos_token_id"], eos_token_id=small["text_config"]["eos_token_id"],
    )
    vision = CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=336,
        patch_size=14, projection_dim=768,
    )
    return LlavaConfig(vision_config=vision, text_config=text, image_token_index=small["image_token_index"],
                       image_seq_length=576, vision_feature_layer=-2, vision_feature_select_strategy="default")


def with_words(tokenizer):
    """The same tokenizer with a token for each word of the streamed texts: a question is as long as it would be."""
    first = 1 + max(tokenizer["model"]["vocab"].values())
    words = sorted(set(re.findall(r" ?[A-Za-z]+", "\n".join(re.findall(r'"([^"]*)"', STREAMED)))))
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    tokenizer["added_tokens"] += [{"id": first + i, "content": word} | flags for i, word in enumerate(words)]
    return tokenizer


def make(folder):
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = LlavaForConditionalGeneration._from_config(config(), dtype=torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="4GB")
    for name in ["tokenizer_config.json", "chat_template.jinja"]:
        shutil.copy(SMALL / name, folder / name)
    tokenizer = with_words(json.loads((SMALL / "tokenizer.json").read_text()))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    processor = json.loads((SMALL / "processor_config.json").read_text())
    processor["image_processor"] |= {"crop_size": {"height": 336, "width": 336}, "size": {"shortest_edge": 336}}
    processor["patch_size"] = 14
    (folder / "processor_config.json").write_text(json.dumps(processor))
    (folder / "spotter.toml").write_text(STREAMED)


def decode(model, prompt, tokens, **how):
    ids = torch.arange(prompt, device="cuda")[None] % 200 + 10
    settings = dict(do_sample=False, use_cache=True, eos_token_id=None, **how)
    model.generate(ids, max_new_tokens=8, min_new_tokens=8, **settings)
    times = []
    for _ in range(3):
        spent = []
        for n in (8, 8 + tokens):
            torch.cuda.synchronize()
            begun = time.perf_counter()
            model.generate(ids, max_new_tokens=n, min_new_tokens=n, **settings)
            torch.cuda.synchronize()
            spent.append(time.perf_counter() - begun)
        times.append((spent[1] - spent[0]) / tokens * 1e3)
    return sorted(times)[1]


@torch.inference_mode()
def decide(model, context, question):
    """Milliseconds from a picture on the card to the logits behind a question: median of 20."""
    body, times = model.model, []
    cache = DynamicCache()
    read = lambda x: body.language_model(inputs_embeds=x, past_key_values=cache, use_cache=True).last_hidden_state
    embed = body.get_input_embeddings()
    read(embed(torch.arange(context, device="cuda")[None] % 200 + 10))
    asked = embed(torch.arange(question, device="cuda")[None] % 200 + 10)
    picture = torch.rand(1, 3, 336, 336, device="cuda", dtype=torch.bfloat16)
    for _ in range(25):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        patches = body.vision_tower(picture, output_hidden_states=True).hidden_states[-2][:, 1:]
        plane = patches.transpose(1, 2).unflatten(2, (24, 24))
        tokens = body.multi_modal_projector(torch.nn.functional.avg_pool2d(plane, 3).flatten(2).transpose(1, 2))
        model.lm_head(read(torch.cat([tokens, asked], 1))[:, -1]).float().cpu()
        times.append((time.perf_counter() - begun) * 1e3)
        cache.crop(context)
    return sorted(times[5:])[10]


def measure(folder):
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16, device_map="cuda")
    ms = decide(model, 1120, 20)
    print(json.dumps({"engine": "transformers", "way": "decision, eager", "context": 1120, "ms": round(ms, 3)}), flush=True)
    ways = [("eager", {}), ("static cache, CUDA graph", {"cache_implementation": "static"})]
    for name, how in ways:
        ms = decode(model, 512, 64, **how)
        print(json.dumps({"engine": "transformers", "way": name, "context": 512, "ms_a_token": round(ms, 3)}), flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("make", "time"):
        sys.exit(__doc__)
    (make if sys.argv[1] == "make" else measure)(Path(sys.argv[2]))
