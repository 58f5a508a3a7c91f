#!/usr/bin/env python3
"""Spotter and llama.cpp side by side: the same GGUF file, threads and prompt ids, in turns.

    scripts/bench_llama.py FILE.gguf [FILE.gguf ...] [--rounds 5] [--prompt 256] [--tokens 128] [--threads 2] [--json]

llama.cpp is the PyPI package llama-cpp-python, built from its source for this very processor into .deps/llama the first
time (about 9 minutes of one core; needs a C++ compiler). Each turn is a process of its own that loads the file, warms up,
and then reads the prompt in one pass and takes the likeliest token again and again, its choice included in the time; who
begins changes from round to round. Rates are medians.

Both must say the same, as far as rounding lets them: llama.cpp reads what Spotter wrote, and at each of its first tokens tells how
much likelier it finds another, as a part of how far its likeliest token is above the mean of all. Exits with 1 where that is more
than a tenth.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PEER = ROOT / ".deps" / "llama"
VERSION = "0.3.36"
# Tokens that are compared, and how far they may be from the likeliest.
COMPARED = 16
FAR = 0.1


def peer():
    """The Python that has llama.cpp, built if need be."""
    python = PEER / "bin" / "python"
    found = f"import llama_cpp, sys; sys.exit(llama_cpp.__version__ != {VERSION!r})"
    if python.exists() and subprocess.run([python, "-c", found], stderr=subprocess.DEVNULL).returncode == 0:
        return python
    print(f"building llama-cpp-python {VERSION} into {PEER}", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", PEER], check=True)
    env = dict(os.environ, CMAKE_ARGS="-DGGML_NATIVE=ON -DLLAMA_BUILD_TESTS=OFF")
    package = f"llama-cpp-python=={VERSION}"
    command = [python, "-m", "pip", "install", "--quiet", "--no-binary", "llama-cpp-python", package]
    subprocess.run(command, check=True, env=env)
    return python


def worker(file, tokens, threads, ids, ours):
    """One turn of llama.cpp, in the peer's Python; `ours` are the ids that Spotter wrote."""
    import llama_cpp
    import numpy

    model = llama_cpp.Llama(
        file, n_ctx=len(ids) + tokens + 8, n_batch=len(ids), n_threads=threads, n_threads_batch=threads, verbose=False
    )

    def logits():
        return numpy.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(model._ctx.ctx, -1), shape=(model.n_vocab(),))

    def likeliest():
        return int(logits().argmax())

    def turn(count):
        model.reset()
        start = time.perf_counter()
        model.eval(ids)
        written = [likeliest()]
        prefill = len(ids) / (time.perf_counter() - start)
        start = time.perf_counter()
        while len(written) < count + 1:
            model.eval(written[-1:])
            written.append(likeliest())
        return written[:count], prefill, count / (time.perf_counter() - start)

    turn(min(tokens, 8))
    written, prefill, decode = turn(tokens)
    model.reset()
    model.eval(ids)
    far = 0.0
    for number in ours[:COMPARED]:
        now = logits()
        far = max(far, float((now.max() - now[number]) / (now.max() - now.mean())))
        model.eval([number])
    print(json.dumps({"ids": written, "prefill": [prefill], "decode": [decode], "far": far}))


def measure(args, python, file):
    spotter = [args.spotter, "bench", "language", "--model", file, "--prompt", str(args.prompt)]
    spotter += ["--tokens", str(args.tokens), "--rounds", "1", "--device", "cpu", "--json"]
    env = dict(os.environ, RAYON_NUM_THREADS=str(args.threads))

    def run(command, **more):
        return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, **more).stdout)

    first = run(spotter, env=env)
    ids = json.dumps([first["prompt_ids"], first["ids"]])
    turns = {
        "spotter": lambda: run(spotter, env=env),
        "llama.cpp": lambda: run(
            [python, __file__, "--worker", file, str(args.tokens), str(args.threads)], input=ids
        ),
    }
    rates = {name: {"prefill": [], "decode": []} for name in turns}
    written, far = {}, 0.0
    for number in range(args.rounds):
        order = list(turns) if number % 2 == 0 else list(reversed(turns))
        for name in order:
            report = turns[name]()
            written[name] = report["ids"]
            far = max(far, report.get("far", 0.0))
            for what in ("prefill", "decode"):
                rates[name][what] += report[what]
    pairs = list(zip(written["spotter"], written["llama.cpp"]))
    same = next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))
    median = {name: {what: statistics.median(r) for what, r in each.items()} for name, each in rates.items()}
    ratio = {what: median["spotter"][what] / median["llama.cpp"][what] for what in ("prefill", "decode")}
    return {"file": file, "rates": rates, "median": median, "ratio": ratio, "same_ids": same, "of": len(pairs), "far": far}


def table(reports):
    lines = [f"{'file':<36}{'':<10}{'spotter':>10}{'llama.cpp':>11}{'ratio':>8}   all rounds"]
    for report in reports:
        for what in ("prefill", "decode"):
            name = pathlib.Path(report["file"]).name
            if what == "decode":
                name = f"  {report['same_ids']} of {report['of']} ids equal, {report['far']:.3f} off"
            ours, theirs = (report["median"][n][what] for n in ("spotter", "llama.cpp"))
            each = " | ".join(
                " ".join(f"{rate:.0f}" for rate in report["rates"][n][what]) for n in ("spotter", "llama.cpp")
            )
            lines.append(f"{name:<36}{what:<10}{ours:>10.1f}{theirs:>11.1f}{report['ratio'][what]:>8.2f}   {each}")
    return "\n".join(lines)


def main():
    if sys.argv[1:2] == ["--worker"]:
        file, tokens, threads = sys.argv[2:5]
        return worker(file, int(tokens), int(threads), *json.load(sys.stdin))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--spotter", default=str(ROOT / "target" / "release" / "spotter"))
    parser.add_argument("--json", action="store_true", help="one object a file")
    args = parser.parse_args()
    python = peer()
    reports = []
    for file in args.files:
        reports.append(measure(args, python, file))
        if args.json:
            print(json.dumps(reports[-1]), flush=True)
    if not args.json:
        print(table(reports))
    return 0 if all(report["far"] <= FAR for report in reports) else 1


if __name__ == "__main__":
    sys.exit(main())
