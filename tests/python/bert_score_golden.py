"""Golden of BERTScore: a tiny random RoBERTa and a tiny random BERT, scored by the package bert_score.

    python3 -m venv v && v/bin/pip install torch transformers==5.23.0 bert_score==0.3.13
    v/bin/python tests/python/bert_score_golden.py

Writes tests/goldens/bert_score/: two checkpoints as transformers saves them, and the scores of the sentence pairs of
tests/goldens/text_metrics/golden.json under them.
"""

import json
import pathlib
import shutil

import bert_score.utils as utils
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel

GOLDENS = pathlib.Path(__file__).parent.parent / "goldens"
OUT = GOLDENS / "bert_score"
PAIRS = [(p["reference"], p["prediction"]) for p in json.loads((GOLDENS / "text_metrics/golden.json").read_text())["pairs"]]
SHAPE = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48, vocab_size=400)


def roberta_tokenizer(texts):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet))
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return tokenizer


def bert_tokenizer(texts):
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=400, special_tokens=special))
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer


class Slow:
    """What bert_score asks of a tokenizer."""

    def __init__(self, tokenizer, roberta, most):
        self.inner, self.roberta, self.most = tokenizer, roberta, most
        names = ("</s>", "<s>", "<pad>") if roberta else ("[SEP]", "[CLS]", "[PAD]")
        self.sep_token_id, self.cls_token_id, self.pad_token_id = (tokenizer.token_to_id(n) for n in names)

    def encode_text(self, text):
        text = text.strip()
        if text and self.roberta:
            text = " " + text
        ids = self.inner.encode(text).ids
        return ids if len(ids) <= self.most else ids[: self.most - 1] + ids[-1:]


def scores(model, tokenizer):
    utils.sent_encode = lambda tokenizer, text: tokenizer.encode_text(text)
    from collections import defaultdict

    idf = defaultdict(lambda: 1.0)
    idf[tokenizer.sep_token_id] = 0
    idf[tokenizer.cls_token_id] = 0
    out = []
    for truth, said in PAIRS:
        found = utils.bert_cos_score_idf(model, [truth], [said], tokenizer, idf, device="cpu", all_layers=False)
        f = found[0][2].item()
        out.append(0.0 if f != f else f)
    return out


def main():
    torch.manual_seed(0)
    if OUT.exists():
        shutil.rmtree(OUT)
    texts = [t for pair in PAIRS for t in pair]
    golden = {}
    for name, roberta in [("roberta", True), ("bert", False)]:
        folder = OUT / name
        folder.mkdir(parents=True)
        tokenizer = roberta_tokenizer(texts) if roberta else bert_tokenizer(texts)
        tokenizer.save(str(folder / "tokenizer.json"))
        if roberta:
            model = RobertaModel(RobertaConfig(**SHAPE, max_position_embeddings=66, type_vocab_size=1, pad_token_id=1), add_pooling_layer=False)
        else:
            model = BertModel(BertConfig(**SHAPE, max_position_embeddings=64, type_vocab_size=2), add_pooling_layer=False)
        for weight in model.parameters():
            # Far enough from alike that scores spread.
            torch.nn.init.normal_(weight, 1.0 if weight.dim() == 1 else 0.0, 0.3)
        model.eval()
        model.save_pretrained(folder)
        depth = 2
        golden[name] = {"layer": depth, "f1": None}
        model.encoder.layer = torch.nn.ModuleList(list(model.encoder.layer)[:depth])
        golden[name]["f1"] = scores(model, Slow(tokenizer, roberta, 64))
    golden["pairs"] = PAIRS
    (OUT / "golden.json").write_text(json.dumps(golden, ensure_ascii=False, indent=0) + "\n")
    for name in ("roberta", "bert"):
        f = golden[name]["f1"]
        print(name, len(f), "pairs, from", min(f), "to", max(f))


main()
