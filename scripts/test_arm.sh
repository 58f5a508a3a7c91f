#!/bin/sh
# Packed weights on a 64-bit ARM processor: the engine's tests of them, built for one and run by qemu, with products of bytes (as of
# Apple M, Graviton 2 and later, Raspberry Pi 5) and without (Raspberry Pi 4). Numbers are held to the last bit; times say nothing here.
#
# Packages are installed where that is allowed. The first build takes some minutes. On an ARM machine its own processor runs them.
set -eu
cd "$(dirname "$0")/.."
target=aarch64-unknown-linux-gnu
tests="quantised:: gguf:: packed_tests:: model::few model::attend model::fused"
build="cargo test --release -p spotter-engine --features training --lib"

say() {
    echo "test-arm: $*"
}

# Runs the tests on the processor $1 (a name of qemu's, or `own`), which must multiply with $2.
run() {
    log=$(mktemp)
    # shellcheck disable=SC2086
    if ! $build -- --nocapture all_instructions > "$log" 2>&1; then
        cat "$log"
        exit 1
    fi
    found=$(sed -n 's/.*compared: //p' "$log")
    rm -f "$log"
    say "$1: $found"
    if [ -n "$2" ] && [ "$found" != "$2" ]; then
        say "expected: $2"
        exit 1
    fi
    # shellcheck disable=SC2086
    $build -- $tests
}

case "$(uname -s)-$(uname -m)" in
*-aarch64 | *-arm64)
    run own ""
    exit 0
    ;;
Linux-*) ;;
*)
    say "qemu runs ARM programs on Linux only, and this is $(uname -s) on $(uname -m)"
    exit 1
    ;;
esac

missing=
command -v qemu-aarch64 > /dev/null || missing="$missing qemu-user"
command -v aarch64-linux-gnu-gcc > /dev/null || missing="$missing gcc-aarch64-linux-gnu"
[ -e /usr/aarch64-linux-gnu/lib/libc.so.6 ] || missing="$missing libc6-dev-arm64-cross"
if [ -n "$missing" ]; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
        say "missing:$missing (on Debian and Ubuntu: apt-get install$missing)"
        exit 1
    fi
    say "installing$missing"
    apt-get update -qq || say "apt-get update failed; trying with the package lists as they are"
    # shellcheck disable=SC2086
    apt-get install -y --no-install-recommends $missing > /dev/null
fi
if [ ! -d "$(rustc --print sysroot)/lib/rustlib/$target" ]; then
    command -v rustup > /dev/null || { say "Rust's library for $target is missing; rustup would install it"; exit 1; }
    rustup target add "$target"
fi

# The repository builds for the processor at hand, which is none of this target.
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS="-C target-cpu=generic"
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
build="$build --target $target"
say "building (the first time some minutes)"
$build --quiet --no-run
for processor in "max|no vector instructions, NEON, NEON (dotprod)" "cortex-a72|no vector instructions, NEON"; do
    cpu=${processor%%|*}
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu -cpu $cpu"
    run "$cpu" "${processor#*|}"
done
