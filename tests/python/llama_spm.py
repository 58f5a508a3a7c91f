#!/usr/bin/env python3
"""Goldens of a tokenizer of Llama 2's kind: `python3 tests/python/llama_spm.py` writes tests/goldens/llama_spm.

SentencePiece 0.2 trains BPE with bytes for what it does not know on the sentences below, with the settings of Llama's own
tokenizer, and takes texts apart. `golden.json` has its pieces, scores and kinds (as a GGUF file numbers them) and what it makes of
each text; `tokenizer.json` is what the package transformers makes of the same model.
"""
import io
import json
import pathlib
import sys

import sentencepiece

OUT = pathlib.Path(__file__).resolve().parent.parent / "goldens" / "llama_spm"

SENTENCES = [
    "Stand with your feet as wide as your shoulders and keep your back straight.",
    "Go down slowly until your thighs are level with the floor, then come back up.",
    "Good, one more; keep your knees over your toes and your chest up.",
    "Well done! That was ten. Rest for 45 seconds and shake out your legs.",
    "Your left knee falls in: push it out, slowly, as you come up.",
    "Breathe in on the way down, breathe out on the way up.",
    "Hold the plank for 30 seconds; do not let your hips sink.",
    "무릎을 굽히고 허리를 곧게 펴세요.",
    "좋아요, 한 번 더 하세요. 천천히 내려가세요.",
    "USER: what should I correct? ASSISTANT: Keep your heels on the floor.",
]

TEXTS = [
    "",
    " ",
    "Keep your back straight.",
    "  two  spaces,   three; and at the end  ",
    "knees over toes\nchest up\n\n\tgo",
    "12 reps in 345 seconds",
    "무릎을 굽히고 천천히 내려가세요, 좋아요!",
    "unseen: Ünïcode ☃ 🏋️ 漢字",
    "aaaaaaaaaaaaa eeeee lll",
    "slowlyslowly  slowlyupupupdown",
    "\u2581already\u2581written",
    "Keep",
    " up",
]


def main():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 3),
        model_writer=model,
        model_type="bpe",
        vocab_size=560,
        byte_fallback=True,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        character_coverage=0.99,
        num_threads=1,
        hard_vocab_limit=False,
    )
    sp = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    kinds = []
    for i in range(sp.get_piece_size()):
        kind = 2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 6 if sp.is_byte(i) else 5 if sp.is_unused(i) else 1
        kinds.append(kind)
    texts = []
    for text in TEXTS:
        ids = sp.encode(text)
        texts.append({"text": text, "ids": ids, "decoded": sp.decode(ids)})
    golden = {
        "tokens": [sp.id_to_piece(i) for i in range(sp.get_piece_size())],
        "scores": [sp.get_score(i) for i in range(sp.get_piece_size())],
        "kinds": kinds,
        "texts": texts,
    }
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "golden.json").write_text(json.dumps(golden, ensure_ascii=False, indent=1) + "\n")
    print(f"{len(kinds)} pieces", file=sys.stderr)
    publish(model.getvalue())


def publish(proto):
    """What transformers makes of it, as a published checkpoint has it."""
    import tempfile

    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "tokenizer.model").write_bytes(proto)
        settings = {"tokenizer_class": "LlamaTokenizer", "legacy": True, "add_bos_token": True}
        settings |= {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
        tokenizer = AutoTokenizer.from_pretrained(folder)
        (OUT / "tokenizer.json").write_text(tokenizer.backend_tokenizer.to_str(pretty=False) + "\n")


if __name__ == "__main__":
    main()
