"""Makes a tiny random HyperCLOVA X SEED Vision checkpoint under goldens/ and what a reference computes for it.

Run as make_goldens.py; it needs timm as well. No released class computes this model, so the reference is put together
here: SigLIP and Llama out of transformers, the stages of the C-Abstractor out of timm, and between them what the
published description says about tiles, bars, and rows that end in a token of their own.
"""

import json
import math
import shutil

import numpy
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.layers import LayerNorm2d
from timm.models.regnet import RegStage
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, SiglipVisionConfig, SiglipVisionModel

from make_goldens import HERE, VOCAB, make_tokenizer, picture, randomise

SIDE, PATCH, WIDTH, OUT, QUERIES, MOST = 36, 6, 32, 32, 9, 4
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
SPECIALS = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|endofturn|>", "<|stop|>", "<|dummy3|>",
    "<|_unuse_missing_100270|>",
]
# In the manner of the model card: a message has one content, text or an image with words about it.
TEMPLATE = """\
<|im_start|>tool_list
<|im_end|>
{% for message in messages %}
{%- if loop.first and message['role'] != 'system' %}
{{- '<|im_start|>system\\n<|im_end|>\\n' }}
{%- endif %}
{%- if message['content'] is mapping and message['content']['type'] == 'image' %}
{{- '<|im_start|>' + message['role'] + ' (mime)\\n{"type": "image/jpeg", "filename": "' }}
{{- message['content']['filename'] + '"}<|im_end|>\\n' }}
{{- '<|im_start|>' + message['role'] + ' (vector)\\n<|dummy3|><|im_end|>\\n' }}
{{- '<|im_start|>image/aux\\n사진에서 찾은 것입니다. {"ocr": "' + message['content']['ocr'] + '", "lens_keywords": "' }}
{{- message['content']['lens_keywords'] + '"}<|im_end|>\\n' }}
{%- else %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content']['text'] + '<|im_end|>' }}
{%- if message['role'] == 'assistant' %}{{- '<|endofturn|>' }}{% endif %}
{{- '\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}
"""
PICTURES = [picture(36, 36, 1), picture(72, 36, 2), picture(50, 71, 3), picture(90, 90, 4)]


class Abstractor(nn.Module):
    def __init__(self):
        super().__init__()
        stage = lambda: RegStage(3, WIDTH, WIDTH, stride=1, dilation=1, act_layer=nn.SiLU, norm_layer=LayerNorm2d)
        side = math.isqrt(QUERIES)
        self.pos_emb = nn.Parameter(torch.zeros(1, (SIDE // PATCH) ** 2, WIDTH))
        self.net = nn.Sequential(stage(), nn.AdaptiveAvgPool2d((side, side)), stage())
        self.readout = nn.Sequential(nn.Linear(WIDTH, OUT), nn.SiLU(), nn.Linear(OUT, OUT))

    def forward(self, x, side=None):
        b, n, width = x.shape
        x = (x + self.pos_emb).transpose(1, 2).reshape(b, width, math.isqrt(n), math.isqrt(n))
        pool = self.net[1] if side is None else nn.AdaptiveAvgPool2d((side, side))
        return self.readout(self.net[2](pool(self.net[0](x))).flatten(2).transpose(1, 2))


def planes():
    grids = [(r, c) for r in range(1, MOST + 1) for c in range(1, MOST + 1) if 1 < r * c <= MOST]
    return [[r * SIDE, c * SIDE] for r, c in grids]


def best_plane(width, height):
    """Most of the picture, then least waste."""
    best = None
    for rows, columns in planes():
        scale = min(columns / width, rows / height)
        shown = min(int(width * scale) * int(height * scale), width * height)
        key = (shown, -(rows * columns - shown))
        if best is None or key > best[0]:
            best = (key, rows, columns)
    return best[1:]


def on_bars(image, width, height):
    colour = tuple(int(m * 255) for m in MEAN)
    canvas = Image.new("RGB", (width, height), colour)
    canvas.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
    return canvas


def views(image):
    """The whole in a square, then tiles row by row, as bytes `[n, 3, side, side]`."""
    w, h = image.size
    if w > h:
        size = (SIDE, math.ceil(h / w * SIDE))
    else:
        size = (math.ceil(w / h * SIDE), SIDE)
    pictures = [on_bars(image.resize(size, Image.BICUBIC), SIDE, SIDE)]
    rows, columns = best_plane(w, h)
    if columns / w < rows / h:
        size = (columns, min(math.ceil(h * (columns / w)), rows))
    else:
        size = (min(math.ceil(w * (rows / h)), columns), rows)
    plane = on_bars(image.resize(size, Image.BICUBIC), columns, rows)
    for top in range(0, rows, SIDE):
        pictures += [plane.crop((x, top, x + SIDE, top + SIDE)) for x in range(0, columns, SIDE)]
    return torch.stack([torch.tensor(numpy.array(p)).permute(2, 0, 1) for p in pictures])


def arrange(tokens, image, newline):
    """Tokens of the whole, then those of the plane without bars, a newline behind each row."""
    w, h = image.size
    rows, columns = (n // SIDE for n in best_plane(w, h))
    side = math.isqrt(QUERIES)
    plane = tokens[1:].reshape(rows, columns, side, side, OUT).transpose(1, 2).reshape(rows * side, columns * side, OUT)
    if w / h > columns / rows:
        cut = (rows * side - int(h * (columns * side / w))) // 2
        plane = plane[cut : rows * side - cut]
    else:
        cut = (columns * side - int(w * (rows * side / h))) // 2
        plane = plane[:, cut : columns * side - cut]
    plane = torch.cat([plane, newline.expand(len(plane), 1, OUT)], 1)
    return torch.cat([tokens[0], plane.reshape(-1, OUT)])


def conversations():
    text = lambda role, words: {"role": role, "content": {"type": "text", "text": words}}
    image = {
        "role": "user",
        "content": {"type": "image", "filename": "", "ocr": "", "lens_keywords": "", "lens_local_keywords": ""},
    }
    for i in range(len(PICTURES)):
        yield f"picture{i}", [image, text("user", "What is this? 무릎을 굽히세요?")], [i]
    korean = [text("system", "코치입니다."), image, text("user", "무릎은 어때요?"), text("assistant", "좋아요!"), image]
    yield "turns", korean + [text("user", "And now? 좋아요?")], [1, 2]


def main():
    torch.set_num_threads(1)
    folder = HERE / "seed-vision"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    vision = SiglipVisionConfig(
        image_size=SIDE, patch_size=PATCH, hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=3,
        num_attention_heads=4, vision_use_head=False,
    )
    text = LlamaConfig(
        vocab_size=VOCAB, hidden_size=OUT, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=2048, rms_norm_eps=1e-5, bos_token_id=0, eos_token_id=0,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0}, tie_word_embeddings=True,
    )
    parts = nn.ModuleDict(
        {
            "vision_model": SiglipVisionModel(vision),
            "mm_projector": Abstractor(),
            "language_model": LlamaForCausalLM(text),
        }
    ).eval()
    parts.image_newline = nn.Parameter(torch.zeros(OUT))
    randomise(parts, seed=77)
    parts["language_model"].tie_weights()
    weights = {k: v.detach().contiguous() for k, v in parts.state_dict().items() if "lm_head" not in k and ".head." not in k}
    if not any(k.startswith("vision_model.vision_model.") for k in weights):
        weights = {k.replace("vision_model.", "vision_model.vision_model.", 1) if k.startswith("vision_model.") else k: v for k, v in weights.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer = make_tokenizer(SPECIALS, "<|endoftext|>", "<|im_end|>", False, TEMPLATE, "<|dummy3|>")
    tokenizer.save_pretrained(folder)
    config = {
        "architectures": ["HCXVisionForCausalLM"], "model_type": "hyperclovax_vlm", "anyres": True, "unpad": True,
        "max_num_grids": MOST, "use_1x1_grid": False, "possible_resolutions": [], "use_nth_layer": -2,
        "mm_projector_type": "cabstractor", "num_queries_vis_abstractor_image": QUERIES, "proj_pos_emb": True,
        "proj_prenorm": False, "img_start_id": 100009, "text_config": text.to_diff_dict(), "vision_config": vision.to_diff_dict(),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    processor = {
        "image_processor_type": "HCXVisionImageProcessor", "anyres": True, "unpad": True, "pad_to_square": True,
        "size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}, "do_center_crop": True,
        "image_mean": MEAN, "image_std": STD, "resample": 3, "possible_resolutions": planes(),
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=1) + "\n")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 2]}) + "\n")
    for i, image in enumerate(PICTURES):
        image.save(folder / f"image{i}.png")
    facts, out = {}, {}
    place = tokenizer.convert_tokens_to_ids("<|dummy3|>")
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    with torch.no_grad():
        for name, messages, shown in conversations():
            prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            ids, embedded = [], []
            pictures = iter(shown)
            for token in tokenizer(prompt, add_special_tokens=False)["input_ids"]:
                rows = parts["language_model"].get_input_embeddings()(torch.tensor([token]))
                if token == place:
                    i = next(pictures)
                    seen = views(PICTURES[i])
                    tower = parts["vision_model"]((seen / 255 - mean) / std, output_hidden_states=True)
                    tokens = parts["mm_projector"](tower.hidden_states[-2])
                    rows = arrange(tokens, PICTURES[i], parts.image_newline)
                    out[f"{name}.pixels{shown.index(i)}"] = seen
                    out[f"fast{i}"] = parts["mm_projector"](tower.hidden_states[-2][:1], side=2)
                ids += [token] * len(rows)
                embedded.append(rows)
            logits = parts["language_model"](inputs_embeds=torch.cat(embedded)[None]).logits[0]
            kept = sorted({*range(0, len(logits), 23), len(logits) - 1})
            facts[name] = {"messages": messages, "prompt": prompt, "images": shown}
            out[f"{name}.input_ids"] = torch.tensor(ids, dtype=torch.int32)
            out[f"{name}.rows"] = torch.tensor(kept, dtype=torch.int32)
            out[f"{name}.logits"] = logits[kept].contiguous()
            print(name, "prompt", len(ids), "logits of", float(logits.abs().mean()))
    save_file({k: v.contiguous() for k, v in out.items()}, folder / "golden.safetensors")
    (folder / "golden.json").write_text(json.dumps(facts, ensure_ascii=False, indent=1) + "\n")
    print(sorted(k for k in weights if "mm_projector.net.0.b1" in k or k.startswith("vision_model.vision_model.e")))


if __name__ == "__main__":
    main()
