#!/usr/bin/env python3
"""What `spotter models quantize` wrote of a LLaVA folder, read by llama.cpp's own Python package (gguf 0.19):

    read_gguf.py FOLDER OUT.gguf        # and mmproj-OUT.gguf beside it; types f32 or f16

Names come from that package's table (those of the projector from llama.cpp's clip.cpp: `mm.0` and `mm.2`), numbers from the folder's safetensors, sizes from its config.json, factors
of rotations from transformers' formula. Prints how many tensors and keys were compared; exits with 1 at the first difference. With --next PROBE.json, what `spotter models probe OUT.gguf --prompt TEXT --json` printed,
llama.cpp must find the same tokens likely. With --llama, llama.cpp itself (llama-cpp-python 0.3.36) loads both files as well,
and must cut texts as transformers does.
"""
import argparse
import ctypes
import json
import math
import pathlib
import sys

import gguf
import numpy
from safetensors.numpy import load_file

KEYS = gguf.Keys
TEXTS = ["Keep your back straight.", "two  spaces\n12 reps", "무릎을 굽히세요 ☃"]


def fail(what):
    sys.exit(f"differs: {what}")


def tensors_of(folder):
    files = [path for path in sorted(folder.glob("*.safetensors")) if not path.name.startswith("golden")]
    return {name: tensor for path in files for name, tensor in load_file(path).items()}


def halves_to_neighbours(weight, heads):
    rows = weight.shape[0]
    return weight.reshape(heads, 2, rows // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def compare(reader, arch, layers, tensors, change=lambda name, t: t):
    """Every tensor of a file with the one of the folder that the package's table has under its name."""
    table = gguf.get_tensor_name_map(arch, layers)
    named = {}
    for full, tensor in tensors.items():
        plain = full.replace("language_model.model.", "model.").replace("model.language_model.", "model.")
        plain = plain.replace("language_model.lm_head", "lm_head").replace("model.vision_tower", "vision_tower")
        if "vision_model" not in plain:
            plain = plain.replace("vision_tower.", "vision_tower.vision_model.")
        short = table.get_name(plain, try_suffixes=(".weight", ".bias"))
        for part, number in (("linear_1.", "mm.0."), ("linear_2.", "mm.2.")):
            if "projector" in plain and part in plain:
                short = number + plain.split(part)[1]
        if plain.endswith("image_newline"):
            short = table.get_name("model.image_newline")
        if short:
            named[short] = (full, tensor)
    named.update({name: (name, tensor) for name, tensor in tensors.items() if name == "rope_freqs.weight"})
    for entry in reader.tensors:
        if entry.name not in named:
            fail(f"{entry.name}: the package knows no tensor of the folder by it")
        full, expected = named[entry.name]
        found = gguf.dequantize(entry.data, entry.tensor_type).astype(numpy.float32).reshape(expected.shape)
        expected = change(entry.name, expected.astype(numpy.float32))
        if not numpy.allclose(found, expected, rtol=1e-3, atol=1e-6):
            fail(f"{entry.name} and {full}: {numpy.abs(found - expected).max()}")
    return len(reader.tensors)


def check_keys(reader, expected):
    for key, value in expected.items():
        field = reader.get_field(key)
        if field is None:
            fail(f"{key} is missing")
        found = field.contents()
        same = numpy.allclose(found, value, rtol=1e-6) if isinstance(value, (float, list)) else found == value
        if not same:
            fail(f"{key}: {found}, expected {value}")
    return len(expected)


def factors(text):
    """What Llama 3.1 divides each frequency by, `rope_freqs.weight`."""
    rope = text.get("rope_parameters") or {}
    if rope.get("rope_type") != "llama3":
        return {}
    width = text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]
    low, high, old = (rope[k] for k in ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings"))
    found = []
    for i in range(0, width, 2):
        turns = old * rope["rope_theta"] ** (-i / width) / (2 * math.pi)
        smooth = min(max((turns - low) / (high - low), 0.0), 1.0)
        found.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return {"rope_freqs.weight": numpy.array(found, numpy.float32)}


def tiles(config):
    if "image_grid_pinpoints" not in config:
        return {}
    return {
        "clip.vision.mm_patch_merge_type": "spatial_unpad",
        "clip.vision.image_aspect_ratio": config.get("vision_aspect_ratio", "anyres"),
        # llama.cpp has widths first.
        "clip.vision.image_grid_pinpoints": [side for height, width in config["image_grid_pinpoints"] for side in (width, height)],
    }


def vision_keys(config, settings):
    tower, vision = config["vision_config"], KEYS.ClipVision
    layer = config["vision_feature_layer"]
    depth = layer if layer >= 0 else tower["num_hidden_layers"] + 1 + layer
    return {
        KEYS.General.ARCHITECTURE: "clip",
        KEYS.Clip.PROJECTOR_TYPE: "mlp",
        KEYS.Clip.HAS_VISION_ENCODER: True,
        KEYS.ClipVision.USE_GELU: tower["hidden_act"] != "quick_gelu",
        vision.IMAGE_SIZE: tower["image_size"],
        vision.PATCH_SIZE: tower["patch_size"],
        vision.EMBEDDING_LENGTH: tower["hidden_size"],
        vision.FEED_FORWARD_LENGTH: tower["intermediate_size"],
        vision.PROJECTION_DIM: config["text_config"]["hidden_size"],
        vision.BLOCK_COUNT: depth,
        vision.Attention.HEAD_COUNT: tower["num_attention_heads"],
        vision.Attention.LAYERNORM_EPS: float(tower["layer_norm_eps"]),
        vision.IMAGE_MEAN: settings["image_mean"],
        vision.IMAGE_STD: settings["image_std"],
        "clip.vision.feature_layer": [depth],
        **tiles(config),
    }


def file_kind(text):
    return "llama" if text["model_type"] == "mistral" else text["model_type"]


def decoder_keys(config):
    text = config["text_config"]
    arch = file_kind(text)
    head = text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]
    return {
        KEYS.General.ARCHITECTURE: arch,
        KEYS.LLM.EMBEDDING_LENGTH.format(arch=arch): text["hidden_size"],
        KEYS.LLM.BLOCK_COUNT.format(arch=arch): text["num_hidden_layers"],
        KEYS.LLM.FEED_FORWARD_LENGTH.format(arch=arch): text["intermediate_size"],
        KEYS.LLM.CONTEXT_LENGTH.format(arch=arch): text["max_position_embeddings"],
        KEYS.Attention.HEAD_COUNT.format(arch=arch): text["num_attention_heads"],
        KEYS.Attention.HEAD_COUNT_KV.format(arch=arch): text["num_key_value_heads"],
        KEYS.Attention.KEY_LENGTH.format(arch=arch): head,
        KEYS.Attention.LAYERNORM_RMS_EPS.format(arch=arch): float(text["rms_norm_eps"]),
        KEYS.Tokenizer.BOS_ID: text["bos_token_id"],
        KEYS.Tokenizer.EOS_ID: text["eos_token_id"],
    }


def llama(decoder, mmproj, folder):
    """llama.cpp itself."""
    import llama_cpp
    from llama_cpp import mtmd_cpp
    from tokenizers import Tokenizer

    model = llama_cpp.Llama(str(decoder), n_ctx=128, verbose=False)
    published = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in TEXTS:
        found = model.tokenize(text.encode(), add_bos=False, special=True)
        expected = published.encode(text, add_special_tokens=False).ids
        if found != expected:
            fail(f"tokens of {text!r}: {found}, expected {expected}")
    params = mtmd_cpp.mtmd_context_params_default()
    params.use_gpu, params.print_timings = False, False
    context = mtmd_cpp.mtmd_init_from_file(str(mmproj).encode(), model.model, params)
    if not context or not mtmd_cpp.mtmd_support_vision(context):
        fail("llama.cpp can't load the projector")
    side = 64
    pixels = (ctypes.c_uint8 * (3 * side * side))(*(i * 7 % 256 for i in range(3 * side * side)))
    bitmap = mtmd_cpp.mtmd_bitmap_init(side, side, pixels)
    asked = b"a " + mtmd_cpp.mtmd_default_marker() + b" b"
    text = mtmd_cpp.mtmd_input_text(text=asked, text_len=len(asked), add_special=True, parse_special=True)
    chunks = mtmd_cpp.mtmd_input_chunks_init()
    bitmaps = (mtmd_cpp.mtmd_bitmap_p_ctypes * 1)(bitmap)
    if mtmd_cpp.mtmd_tokenize(context, chunks, ctypes.byref(text), bitmaps, 1) != 0:
        fail("llama.cpp can't take the picture apart")
    for i in range(mtmd_cpp.mtmd_input_chunks_size(chunks)):
        chunk = mtmd_cpp.mtmd_input_chunks_get(chunks, i)
        if mtmd_cpp.mtmd_input_chunk_get_type(chunk) == mtmd_cpp.MTMD_INPUT_CHUNK_TYPE_IMAGE:
            if mtmd_cpp.mtmd_encode_chunk(context, chunk) != 0:
                fail("llama.cpp can't look at the picture")
            print(f"llama.cpp sees {mtmd_cpp.mtmd_input_chunk_get_n_tokens(chunk)} tokens of a picture")


def following(decoder, probe):
    """What llama.cpp finds likely behind the ids of a probe, beside what the probe found."""
    import llama_cpp

    ids, exact = probe["prompt_ids"], llama_cpp.GGML_TYPE_F32
    model = llama_cpp.Llama(str(decoder), n_ctx=512, verbose=False, logits_all=True, type_k=exact, type_v=exact)
    model.eval(ids)
    scores = numpy.array(model.scores[len(ids) - 1], dtype=numpy.float64)
    scores -= scores.max()
    scores -= numpy.log(numpy.exp(scores).sum())
    off = max(abs(scores[found["id"]] - found["log_prob"]) for found in probe["next"])
    if off > 1e-4:
        fail(f"log-probabilities of the next token: by {off}")
    print(f"llama.cpp's log-probabilities of the next token differ by {off:.1e} at most")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("decoder", type=pathlib.Path)
    parser.add_argument("--llama", action="store_true")
    parser.add_argument("--next", type=pathlib.Path, metavar="PROBE.json")
    args = parser.parse_args()
    config = json.loads((args.folder / "config.json").read_text())
    processor = json.loads((args.folder / "processor_config.json").read_text())["image_processor"]
    text, tensors = config["text_config"], tensors_of(args.folder)
    mmproj = args.decoder.with_name("mmproj-" + args.decoder.name)
    eyes, words = gguf.GGUFReader(mmproj), gguf.GGUFReader(args.decoder)
    keys = check_keys(eyes, vision_keys(config, processor)) + check_keys(words, decoder_keys(config))

    def turned(name, tensor):
        heads = {"attn_q": text["num_attention_heads"], "attn_k": text["num_key_value_heads"]}
        part = name.split(".")[-2]
        return halves_to_neighbours(tensor, heads[part]) if file_kind(text) == "llama" and part in heads else tensor

    arch = gguf.MODEL_ARCH.LLAMA if file_kind(text) == "llama" else gguf.MODEL_ARCH.QWEN2
    eye = ("vision", "projector", "newline")
    seen = {name: tensor for name, tensor in tensors.items() if any(part in name for part in eye)}
    said = {name: tensor for name, tensor in tensors.items() if name not in seen}
    count = compare(eyes, gguf.MODEL_ARCH.MMPROJ, config["vision_config"]["num_hidden_layers"], seen)
    count += compare(words, arch, text["num_hidden_layers"], said | factors(text), turned)
    tokens = words.get_field(KEYS.Tokenizer.LIST).contents()
    vocab = json.loads((args.folder / "tokenizer.json").read_text())["model"]["vocab"]
    if any(tokens[number] != token for token, number in vocab.items()):
        fail("tokens")
    print(f"{count} tensors, {keys} keys and {len(vocab)} tokens are the same")
    if args.next:
        following(args.decoder, json.loads(args.next.read_text()))
    if args.llama:
        llama(args.decoder, mmproj, args.folder)


if __name__ == "__main__":
    main()
