"""Makes the tiny random LLaVA checkpoints under goldens/ and what the Python package transformers computes for them.

Run it only to change the goldens; the Rust test reads the committed files alone:

    python3 -m venv VENV && VENV/bin/pip install -r requirements.txt && VENV/bin/python make_goldens.py

Each folder is a checkpoint as transformers saves one, plus golden.safetensors (pixel values, token ids, logits) and
golden.json (conversations and the prompt text that the chat template makes of them).
"""

import json
import math
import shutil
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
)

HERE = Path(__file__).resolve().parent / "goldens"
VOCAB = 288
STEPS = 8
# Every third row of the logits is stored, and the last: enough to see any error, a third of the bytes.
STRIDE = 3

CORPUS = [
    "Keep your back straight and bend your knees.",
    "Good, one more squat. Now stand tall.",
    "What is the person doing? They do jumping jacks.",
    "무릎을 굽히고 허리를 펴세요. 좋아요, 하나 더!",
]

# In the manner of published LLaVA 1.5 checkpoints: images first, generation tags, no system block of its own.
LLAMA_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' ' }}{% endfor %}"
    "{% else %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ content['text'] + ' ' }}{% endgeneration %}{% endfor %}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
# ChatML over lines, which needs trim_blocks and lstrip_blocks.
QWEN_TEMPLATE = """\
{% if messages[0]['role'] != 'system' %}
{{ '<|im_start|>system\\nYou coach.<|im_end|>\\n' }}
{%- endif %}
{% for message in messages %}
    {{- '<|im_start|>' ~ message.role ~ '\\n' }}
    {% for content in message['content'] %}
        {% if content['type'] == 'image' %}
            {{- '<image>' }}
        {% elif content['type'] == 'text' %}
            {{- content['text'] }}
        {% endif %}
    {% endfor %}
    {{- '<|im_end|>\\n' }}
{% endfor %}
{% if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{% endif %}
"""
# Begins with the text's first token, keeps state in a namespace, calls Python's string methods and may raise.
MISTRAL_TEMPLATE = """\
{{- bos_token }}
{%- set ns = namespace(turns=0) %}
{%- for message in messages %}
    {%- if message['role'] == 'user' %}
        {%- set ns.turns = ns.turns + 1 %}
        {{- '[INST]' }}
        {%- for block in message['content'] %}
            {%- if block['type'] == 'image' %}{{- '<image>' }}
            {%- else %}{{- ' ' + block['text'].strip() }}{%- endif %}
        {%- endfor %}
        {{- '[/INST]' }}
    {%- elif message['role'] == 'assistant' %}
        {{- ' ' + (message['content'] | map(attribute='text') | join('')).strip() + eos_token }}
    {%- else %}
        {{- raise_exception('Only user and assistant roles are supported!') }}
    {%- endif %}
{%- endfor %}
"""


def make_tokenizer(specials, bos, eos, add_bos, template, image="<image>"):
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(CORPUS, trainer)
    if add_bos:
        raw.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, raw.token_to_id(bos))]
        )
    assert raw.get_vocab_size() == VOCAB, raw.get_vocab_size()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token=bos,
        eos_token=eos,
        pad_token=eos,
        extra_special_tokens={"image_token": image},
        chat_template=template,
    )


def randomise(model, seed):
    """Weights that give logits of order one: the usual start of 0.02 would hide errors under the tolerance."""
    gen = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=gen)
        if p.dim() >= 2:
            fan_in = math.prod(p.shape[1:]) if "embed" not in name else 1
            p.data = noise / math.sqrt(fan_in) * (1.5 if fan_in > 1 else 0.7)
        elif "norm" in name and name.endswith("weight"):
            p.data = 1 + 0.2 * noise
        else:
            p.data = 0.3 * noise


def picture(width, height, seed):
    """A picture with edges, a gradient and noise: resampling errors would show."""
    gen = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    rgb = torch.stack([x * 255 // width, y * 255 // height, ((x // 5 + y // 7) % 2) * 200], -1)
    noise = torch.randint(0, 40, (height, width, 3), generator=gen)
    return Image.fromarray((rgb + noise).clamp(0, 255).to(torch.uint8).numpy())


def conversations():
    image, text = {"type": "image"}, lambda t: {"type": "text", "text": t}
    user, coach = (lambda *c: {"role": "user", "content": list(c)}), (lambda t: {"role": "assistant", "content": [text(t)]})
    return {
        "image": [user(image, text("What is the person doing?"))],
        "turns": [
            user(image, text("How is this squat?")),
            coach("Bend your knees. "),
            user(text("And now? 좋아요?"), image),
            coach("Good, stand tall."),
            user(text("One more!")),
        ],
    }


def run_case(name, vision, text, image_processor, tokenizer, template, extra, shard, relabel):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    image_id = tokenizer.convert_tokens_to_ids("<image>")
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=image_id, **extra)
    model = LlavaForConditionalGeneration(config).eval()
    model.set_attn_implementation("eager")
    randomise(model, seed=sum(map(ord, name)))
    if config.tie_word_embeddings:
        model.tie_weights()
    processor = LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=vision.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        chat_template=template,
        num_additional_image_tokens=1 if isinstance(vision, CLIPVisionConfig) else 0,
    )
    model.save_pretrained(folder, max_shard_size=shard)
    processor.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if relabel:
        rename(folder / "model.safetensors", relabel)

    # Landscape and portrait. Pillow resampled rows first for most of its life; version 13 turns the order around for
    # some steep shapes, which are kept out of here.
    images = [picture(61, 40, 1), picture(46, 60, 2)]
    for i, image in enumerate(images):
        image.save(folder / f"image{i}.png")
    out, facts = {}, {}
    for case, messages in conversations().items():
        prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
        count = prompt.count("<image>")
        # The processor takes care not to begin a text twice; the plain call is told.
        begin = not prompt.startswith(tokenizer.bos_token)
        inputs = processor(images=images[:count], text=prompt, return_tensors="pt", add_special_tokens=begin)
        with torch.no_grad():
            logits = model(**inputs).logits[0]
        rows = sorted({*range(0, len(logits), STRIDE), len(logits) - 1})
        facts[case] = {"messages": messages, "prompt": prompt, "images": count}
        out[f"{case}.input_ids"] = inputs["input_ids"][0].to(torch.int32)
        out[f"{case}.pixel_values"] = inputs["pixel_values"].contiguous()
        out[f"{case}.rows"] = torch.tensor(rows, dtype=torch.int32)
        out[f"{case}.logits"] = logits[rows].contiguous()
        if case == "image":
            out.update(steps(model, inputs))
    save_file(out, folder / "golden.safetensors")
    (folder / "golden.json").write_text(json.dumps(facts, ensure_ascii=False, indent=1) + "\n")
    print(name, "logits of", float(out["image.logits"].abs().mean()), "prompt", len(out["turns.input_ids"]), "tokens")


def steps(model, inputs):
    """Greedy tokens one at a time through the cache of transformers."""
    with torch.no_grad():
        result = model(**inputs, use_cache=True)
        ids, rows = [], []
        for _ in range(STEPS):
            ids.append(int(result.logits[0, -1].argmax()))
            result = model(input_ids=torch.tensor([[ids[-1]]]), past_key_values=result.past_key_values, use_cache=True)
            rows.append(result.logits[0, -1])
    return {"steps.ids": torch.tensor(ids, dtype=torch.int32), "steps.logits": torch.stack(rows)}


def rename(path, relabel):
    """The names that transformers uses in memory, which some published files carry."""
    tensors = load_file(path)
    path.unlink()
    renamed = {}
    for key, value in tensors.items():
        for old, new in relabel:
            if key.startswith(old):
                key = new + key[len(old) :]
                break
        renamed[key] = value.contiguous()
    save_file(renamed, path, metadata={"format": "pt"})


def main():
    torch.set_num_threads(1)
    clip = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, projection_dim=16)
    lm = dict(vocab_size=VOCAB, hidden_size=32, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4)
    crop = dict(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    tok = make_tokenizer(["<unk>", "<s>", "</s>", "<image>"], "<s>", "</s>", True, LLAMA_TEMPLATE)
    run_case(
        "clip-llama",
        CLIPVisionConfig(image_size=32, patch_size=8, **clip),
        LlamaConfig(
            num_key_value_heads=2, max_position_embeddings=512, rms_norm_eps=1e-5,
            rope_parameters={
                "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
            },
            bos_token_id=1, eos_token_id=2, **lm,
        ),
        CLIPImageProcessorPil(**crop), tok, LLAMA_TEMPLATE,
        dict(image_seq_length=16, vision_feature_layer=-2, vision_feature_select_strategy="default"),
        "1GB",
        # Published files have this part, which transformers 5 leaves out.
        [("vision_tower.", "vision_tower.vision_model.")],
    )
    tok = make_tokenizer(["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>"], "<|endoftext|>", "<|im_end|>", False, QWEN_TEMPLATE)
    run_case(
        "siglip-qwen2",
        # 30 is no multiple of 8: the last pixels of each row fall away.
        SiglipVisionConfig(image_size=30, patch_size=8, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4),
        Qwen2Config(
            num_key_value_heads=1, max_position_embeddings=512, rms_norm_eps=1e-6, tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}, bos_token_id=0, eos_token_id=2, **lm,
        ),
        SiglipImageProcessorPil(size={"height": 30, "width": 30}), tok, QWEN_TEMPLATE,
        dict(image_seq_length=9, vision_feature_layer=-1, vision_feature_select_strategy="full"),
        "1GB",
        [
            ("language_model.model.", "model.language_model."),
            ("language_model.lm_head.", "lm_head."),
            ("vision_tower.", "model.vision_tower."),
            ("multi_modal_projector.", "model.multi_modal_projector."),
        ],
    )
    tok = make_tokenizer(["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "<image>"], "<s>", "</s>", True, MISTRAL_TEMPLATE)
    run_case(
        "clip-mistral",
        CLIPVisionConfig(image_size=32, patch_size=8, **clip),
        MistralConfig(
            num_key_value_heads=2, head_dim=12, max_position_embeddings=512, rms_norm_eps=1e-5, sliding_window=16,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, bos_token_id=1, eos_token_id=2, **lm,
        ),
        CLIPImageProcessorPil(**crop), tok, MISTRAL_TEMPLATE,
        dict(image_seq_length=17, vision_feature_layer=2, vision_feature_select_strategy="full", multimodal_projector_bias=False),
        "100KB", None,
    )


if __name__ == "__main__":
    main()
