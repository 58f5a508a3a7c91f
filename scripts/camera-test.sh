#!/bin/sh
# The camera code against a real V4L2 device: a small guest boots with the kernel's own test camera (vivid), and the probe
# (vision/examples/camera_probe.rs) opens it, chooses a format, streams, has it taken away in mid-stream and given back.
#
# Nothing is installed but packages for qemu and the guest's tools, where that is allowed; the kernel is Debian's, fetched and
# unpacked under the target folder. Without KVM the guest is emulated, which knows no AVX-512: so the probe is built by itself,
# for any x86-64-v3 machine, in a profile that leaves all but the camera code unoptimised.
set -eu
cd "$(dirname "$0")/.."
work=target/camera-test
seconds=${SECONDS_IN_GUEST:-24}
mkdir -p "$work"

missing=
for tool in qemu-system-x86_64 busybox cpio depmod dpkg-deb; do
    command -v "$tool" > /dev/null || missing="$missing $tool"
done
if [ -n "$missing" ]; then
    echo "camera-test: missing:$missing"
    if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
        echo "camera-test: on Debian and Ubuntu: apt-get install qemu-system-x86 busybox-static cpio kmod"
        exit 1
    fi
    apt-get install -y --no-install-recommends qemu-system-x86 busybox-static cpio kmod > /dev/null
fi

# PROBE=FILE takes one that was built before.
probe=${PROBE:-$work/build/probe/examples/camera_probe}
if [ -z "${PROBE:-}" ]; then
    echo "camera-test: building the probe (the first time some minutes)"
    begun=$(date +%s)
    RUSTFLAGS="-C target-cpu=x86-64-v3" cargo build --profile probe --quiet --target-dir "$work/build" \
        -p spotter-vision --no-default-features --features camera --example camera_probe
    echo "camera-test: built in $(($(date +%s) - begun)) s"
fi

if [ ! -d "$work/kernel" ]; then
    echo "camera-test: fetching a kernel with vivid"
    package=$(apt-cache depends linux-image-amd64 | sed -n 's/.*Depends: \(linux-image-[^ ]*\)$/\1/p' | head -n 1)
    [ -n "$package" ] || { echo "camera-test: the package linux-image-amd64 is not known here; Debian has it"; exit 1; }
    (cd "$work" && apt-get download "$package" > /dev/null 2>&1) || { echo "camera-test: $package can't be fetched"; exit 1; }
    dpkg-deb -x "$work"/linux-image-*.deb "$work/unpacked"
    mv "$work/unpacked" "$work/kernel"
    rm -f "$work"/linux-image-*.deb
fi
version=$(basename "$(echo "$work"/kernel/lib/modules/*)")
depmod -b "$work/kernel" "$version"

# The guest's whole system: busybox, the modules in the order in which they load, the probe and its libraries.
root="$work/root"
rm -rf "$root"
mkdir -p "$root/bin" "$root/modules" "$root/proc" "$root/sys" "$root/dev" "$root/tmp"
cp "$(command -v busybox)" "$root/bin/busybox"
cp "$probe" "$root/bin/camera_probe"
ldd "$probe" | grep -o '/[^ )]*' | while read -r library; do
    mkdir -p "$root$(dirname "$library")"
    cp -L "$library" "$root$library"
done
modprobe -d "$PWD/$work/kernel" -S "$version" --show-depends vivid | sed -n 's/^insmod \([^ ]*\).*/\1/p' > "$work/modules"
order=
while read -r module; do
    cp "$module" "$root/modules/"
    order="$order $(basename "$module")"
done < "$work/modules"

cat > "$root/init" << INIT
#!/bin/busybox sh
b=/bin/busybox
\$b mount -t proc proc /proc
\$b mount -t sysfs sysfs /sys
\$b mount -t devtmpfs dev /dev
for m in$order; do
    case \$m in
        vivid.ko*) \$b insmod /modules/\$m n_devs=1 node_types=0x1 || echo "guest: \$m does not load" ;;
        *) \$b insmod /modules/\$m || echo "guest: \$m does not load" ;;
    esac
done
\$b sleep 1
echo "guest: \$(\$b uname -r), \$(\$b ls /dev | \$b grep video | \$b tr '\n' ' ')"
/bin/camera_probe 0 $seconds &
probe=\$!
\$b sleep $((seconds / 2))
echo "guest: the camera is unplugged"
echo vivid.0 > /sys/bus/platform/drivers/vivid/unbind
\$b sleep 4
echo "guest: the camera is plugged in again"
echo vivid.0 > /sys/bus/platform/drivers/vivid/bind
wait \$probe
echo "guest: the probe ended with \$?"
\$b poweroff -f
INIT
chmod +x "$root/init"
(cd "$root" && find . | cpio -o -H newc --quiet) | gzip -1 > "$work/initrd.gz"

echo "camera-test: booting the guest (emulated: about a minute)"
timeout 300 qemu-system-x86_64 -accel tcg -cpu max -m 1024 -smp 2 -nographic -no-reboot -nic none \
    -kernel "$work/kernel/boot/vmlinuz-$version" -initrd "$work/initrd.gz" \
    -append "console=ttyS0 quiet panic=-1 rdinit=/init" < /dev/null | tr -d '\r' | grep --line-buffered -E '^(guest|probe)' | tee "$work/log"

# What has to have happened, in its order.
fail() { echo "camera-test: FAILED: $1"; exit 1; }
grep -q '^probe.*open: vivid' "$work/log" || fail "the camera did not open"
grep -q '^probe.*lost (Some(Unplugged))' "$work/log" || fail "unplugging was not noticed as such"
sed -n '/unplugged/,$p' "$work/log" | grep -q '^probe.*does not open (Some(Missing))' || fail "it was not missed meanwhile"
sed -n '/plugged in again/,$p' "$work/log" | grep -q '^probe.*open: vivid' || fail "it did not come back"
sed -n '/plugged in again/,$p' "$work/log" | grep -qE '^probe.* [1-9][0-9]* pictures in .*time is up' || fail "it streamed nothing after its return"
echo "camera-test: opened, streamed, noticed the unplugging, and came back"
