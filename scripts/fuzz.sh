#!/bin/bash
# Feeds every loader with broken files by cargo-fuzz: installs it and a nightly toolchain where they are missing, builds all targets
# of fuzz/ and runs each, beginning with good files. Prints how many inputs each had, and fails if one of them broke something.
#
#   scripts/fuzz.sh                            1,000,000 inputs for each target
#   RUNS=50000 scripts/fuzz.sh gguf mmproj     fewer, and these targets alone
#   SANITIZER=address scripts/fuzz.sh          also looks for wrong uses of memory; builds and runs slower
#
# What was found useful stays in fuzz/corpus for the next time, what broke something in fuzz/artifacts.
set -eu

cd "$(dirname "$0")/.."

runs=${RUNS:-1000000}
sanitizer=${SANITIZER:-none}
target=${CARGO_TARGET_DIR:-fuzz/target}
[ $# -gt 0 ] || set -- manifest config safetensors gguf mmproj tokenizer

say() { printf 'fuzz: %s\n' "$*" >&2; }

rustup toolchain list | grep -q '^nightly' || rustup toolchain install nightly --profile minimal
export PATH="$PWD/.deps/cargo-fuzz/bin:$PATH"
command -v cargo-fuzz >/dev/null || cargo install cargo-fuzz --version 0.13.2 --locked --root .deps/cargo-fuzz

# The versions that the program is built with.
[ -f fuzz/Cargo.lock ] || cp Cargo.lock fuzz/Cargo.lock

# Loaders check lengths in debug builds too. Sixteen units compile side by side; one would take the longest crate's time.
say "building (some minutes when it is the first time)"
cargo +nightly fuzz build --fuzz-dir fuzz --sanitizer "$sanitizer" --codegen-units 16 --target-dir "$target"

# A million small files wear a disk.
[ -d /dev/shm ] && TMPDIR=$(mktemp -d /dev/shm/spotter-fuzz.XXXXXX) || TMPDIR=$(mktemp -d)
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT

# The watch counts what the thread of the loader takes.
export RAYON_NUM_THREADS=1
host=$(rustc +nightly -vV | sed -n 's/^host: //p')
failed=0
for name in "$@"; do
    corpus=fuzz/corpus/$name artifacts=fuzz/artifacts/$name/ log=$TMPDIR/$name.log
    mkdir -p "$corpus" "$artifacts"
    say "$name: $runs inputs"
    # The targets hold every allocation against what the file justifies; the limits here are for what happens beside that.
    if SPOTTER_FUZZ_SEEDS=$corpus "$target/$host/release/$name" "$corpus" -runs="$runs" -malloc_limit_mb=64 -rss_limit_mb=2048 \
        -timeout=20 -artifact_prefix="$artifacts" >"$log" 2>&1; then
        printf '%-12s %s, %s\n' "$name" "$(grep -a '^Done ' "$log")" "$(grep -ao 'cov: [0-9]* ft: [0-9]* corp: [0-9]*' "$log" | tail -1)"
    else
        failed=1
        printf '%-12s broke; the input is in %s\n' "$name" "$artifacts"
        tail -n 40 "$log"
    fi
done
exit "$failed"
