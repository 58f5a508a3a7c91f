"""Makes the tiny random checkpoints under goldens/ whose pictures are cut into tiles, and what transformers computes.

Run as make_goldens.py; it needs the same packages.

    next-vicuna    LLaVA-NeXT: CLIP and Llama
    next-mistral   LLaVA-NeXT: CLIP and Mistral
    onevision      LLaVA-OneVision: SigLIP and Qwen2, pictures and a video
"""

import json
import shutil

import numpy
import torch
from safetensors.torch import save_file
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessorPil,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    MistralConfig,
    Qwen2Config,
    SiglipVisionConfig,
)

from make_goldens import HERE, LLAMA_TEMPLATE, MISTRAL_TEMPLATE, VOCAB, make_tokenizer, picture, randomise, rename

# Wide, upright, square, very wide. Steep ones are kept out: see make_goldens.py.
PICTURES = [picture(83, 40, 1), picture(50, 71, 2), picture(50, 50, 3), picture(96, 20, 4)]
IMAGE, TEXT = {"type": "image"}, lambda text: {"type": "text", "text": text}
# In the manner of the published OneVision checkpoints, which know videos too.
ONEVISION_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + ' ' }}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'video') %}{{ '<video>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] }}{% endfor %}"
    "{{ '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def conversations():
    """Each picture by itself, and three of them in two turns."""
    user = lambda *content: {"role": "user", "content": list(content)}
    alone = {f"picture{i}": ([user(IMAGE, TEXT("What is this? 무릎?"))], [i]) for i in range(len(PICTURES))}
    coach = {"role": "assistant", "content": [TEXT("Good, stand tall.")]}
    turns = [user(IMAGE, IMAGE, TEXT("How are these?")), coach, user(IMAGE, TEXT("And now?"))]
    return {**alone, "turns": (turns, [0, 1, 2])}


def last_rows(logits):
    """The last of all rows, and some before: enough to see any error."""
    rows = sorted({*range(0, len(logits), 23), len(logits) - 1})
    return {"rows": torch.tensor(rows, dtype=torch.int32), "logits": logits[rows].contiguous()}


def run_case(name, model, processor, relabel, more=None):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    model = model.eval()
    model.set_attn_implementation("eager")
    randomise(model, seed=sum(map(ord, name)))
    if model.config.tie_word_embeddings:
        model.tie_weights()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    rename(folder / "model.safetensors", relabel)
    for i, image in enumerate(PICTURES):
        image.save(folder / f"image{i}.png")
    out, facts = {}, {}
    for case, (messages, shown) in conversations().items():
        prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
        begin = not prompt.startswith(processor.tokenizer.bos_token)
        images = [PICTURES[i] for i in shown]
        if "onevision" in name:
            images = [images]
        inputs = processor(images=images, text=prompt, return_tensors="pt", add_special_tokens=begin)
        with torch.no_grad():
            logits = model(**inputs).logits[0]
        facts[case] = {"messages": messages, "prompt": prompt, "images": shown}
        out[f"{case}.input_ids"] = inputs["input_ids"][0].to(torch.int32)
        out.update({f"{case}.{key}": value for key, value in last_rows(logits).items()})
        print(name, case, "pixels", tuple(inputs["pixel_values"].shape), "prompt", len(inputs["input_ids"][0]))
        # Pictures of fewer tiles are padded with zeros, which the model leaves out. One byte a number: pixels are bytes.
        mean = torch.tensor(processor.image_processor.image_mean)[:, None, None]
        std = torch.tensor(processor.image_processor.image_std)[:, None, None]
        for i, views in enumerate(inputs["pixel_values"]):
            kept = torch.stack([view for view in views if view.abs().max() > 0])
            out[f"{case}.pixels{i}"] = torch.round((kept * std + mean) * 255).to(torch.uint8)
    if more:
        more(model, processor, out, facts)
    save_file(out, folder / "golden.safetensors")
    (folder / "golden.json").write_text(json.dumps(facts, ensure_ascii=False, indent=1) + "\n")


def video(model, processor, out, facts):
    """Three frames of one video."""
    frames = torch.stack([torch.tensor(numpy.array(picture(40, 40, 7 + i))) for i in range(3)])
    messages = [{"role": "user", "content": [{"type": "video"}, TEXT("How is it?")]}]
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = processor(videos=[frames.permute(0, 3, 1, 2).to(torch.uint8)], text=prompt, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits[0]
    out["video.input_ids"] = inputs["input_ids"][0].to(torch.int32)
    out["video.pixel_values"] = inputs["pixel_values_videos"][0].contiguous()
    out.update({f"video.{key}": value for key, value in last_rows(logits).items()})
    print("video", tuple(inputs["pixel_values_videos"].shape), "prompt", len(inputs["input_ids"][0]))


def main():
    torch.set_num_threads(1)
    clip = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, projection_dim=16)
    lm = dict(vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    planes = [[24, 48], [48, 24], [48, 48], [72, 24], [24, 72]]
    published = [("vision_tower.", "vision_tower.vision_model.")]
    for name, text, specials, template in [
        (
            "next-vicuna",
            LlamaConfig(num_key_value_heads=4, max_position_embeddings=512, rope_parameters=rope, bos_token_id=1, **lm),
            ["<unk>", "<s>", "</s>", "<image>"],
            LLAMA_TEMPLATE,
        ),
        (
            "next-mistral",
            MistralConfig(
                num_key_value_heads=2, max_position_embeddings=512, sliding_window=None, rope_parameters=rope,
                bos_token_id=1, **lm,
            ),
            ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "<image>"],
            MISTRAL_TEMPLATE,
        ),
    ]:
        tokenizer = make_tokenizer(specials, "<s>", "</s>", True, template)
        config = LlavaNextConfig(
            vision_config=CLIPVisionConfig(image_size=24, patch_size=6, **clip), text_config=text,
            image_token_index=tokenizer.convert_tokens_to_ids("<image>"), image_grid_pinpoints=planes,
            vision_feature_layer=-2, vision_feature_select_strategy="default", image_seq_length=16,
        )
        processor = LlavaNextProcessor(
            image_processor=LlavaNextImageProcessorPil(
                size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}, image_grid_pinpoints=planes
            ),
            tokenizer=tokenizer, patch_size=6, vision_feature_select_strategy="default", chat_template=template,
            num_additional_image_tokens=1,
        )
        run_case(name, LlavaNextForConditionalGeneration(config), processor, published)
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"]
    tokenizer = make_tokenizer(specials, "<|endoftext|>", "<|im_end|>", False, ONEVISION_TEMPLATE)
    # Planes up to three by three of tiles with 3 x 3 tokens, of which two tiles' worth are left.
    planes = [[18 * rows, 18 * columns] for rows in range(1, 4) for columns in range(1, 4)]
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(
            image_size=18, patch_size=6, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=4, vision_use_head=False,
        ),
        text_config=Qwen2Config(
            num_key_value_heads=1, max_position_embeddings=512, rope_parameters={**rope, "rope_theta": 1e6},
            tie_word_embeddings=True, bos_token_id=0, eos_token_id=2, **lm,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"), image_grid_pinpoints=planes,
        vision_aspect_ratio="anyres_max_2", vision_feature_layer=-1, vision_feature_select_strategy="full",
    )
    processor = LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessorPil(
            size={"height": 18, "width": 18}, image_grid_pinpoints=planes,
        ),
        tokenizer=tokenizer, video_processor=LlavaOnevisionVideoProcessor(size={"height": 18, "width": 18}),
        num_image_tokens=9, vision_feature_select_strategy="full", chat_template=ONEVISION_TEMPLATE,
        vision_aspect_ratio="anyres_max_2",
    )
    run_case("onevision", LlavaOnevisionForConditionalGeneration(config), processor, published, video)


if __name__ == "__main__":
    main()
