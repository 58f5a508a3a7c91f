#!/bin/sh
# Drives the program through a whole session on a display that nobody sees, and takes a picture of each screen.
#
#   scripts/screens.sh OUT [VIDEO]
#
# VIDEO shows a person from head to feet; it is made into one whose feet are out of the picture at first. Without one the test
# pattern is coached. Needs Xvfb, xdotool, ImageMagick and ffmpeg: apt-get install xvfb xdotool imagemagick ffmpeg
set -eu
out=${1:?a folder for the pictures}
video=${2:-}
spotter=$(cd "$(dirname "$0")/.." && pwd)/target/release/spotter
for tool in Xvfb xdotool import ffmpeg "$spotter"; do
    command -v "$tool" > /dev/null || { echo "screens: $tool is missing"; exit 1; }
done
mkdir -p "$out"
app= xvfb=
work=$(mktemp -d)
trap 'kill $app $xvfb 2> /dev/null || true; rm -rf "$work"' EXIT

from=pattern:640x480@30:60s
lens="--lens none"
if [ -n "$video" ]; then
    # six seconds without the lower part of the picture, then the whole of it, over and over
    from=$work/clip.mp4
    lens=
    ffmpeg -v error -y -stream_loop 9 -i "$video" -filter_complex "[0:v]split[a][b];
        [a]trim=end=6,setpts=PTS-STARTPTS,crop=iw:ih*0.6:0:0,scale=608:640:force_original_aspect_ratio=decrease,
            pad=608:640:(ow-iw)/2:(oh-ih)/2,setsar=1,fps=15[near];
        [b]scale=608:640:force_original_aspect_ratio=decrease,pad=608:640:(ow-iw)/2:(oh-ih)/2,setsar=1,fps=15[far];
        [near][far]concat=n=2" -t 60 -an -c:v libx264 -preset ultrafast "$from"
fi

Xvfb -noreset -displayfd 3 -screen 0 1180x760x24 -nolisten tcp 3> "$work/display" 2> /dev/null &
xvfb=$!
while [ ! -s "$work/display" ]; do sleep 0.1; done
DISPLAY=:$(cat "$work/display")
export DISPLAY LIBGL_ALWAYS_SOFTWARE=1 SPOTTER_CONFIG="$work/settings.toml" SPOTTER_EXERCISE=squats
unset WAYLAND_DISPLAY

# shellcheck disable=SC2086
"$spotter" live --from "$from" $lens --data "$work/data" > "$work/log" 2>&1 &
app=$!
window=$(xdotool search --sync --onlyvisible --name Spotter | head -n 1)
xdotool windowfocus --sync "$window"

shot() { import -window root "$out/$1.png" && echo "screens: $out/$1.png"; }
press() { xdotool key "$1"; sleep 0.7; }

sleep 2
shot 01-home
xdotool key Return
sleep 0.2
shot 02-opening
sleep 4
shot 03-framing
# the whole person is seen after six seconds, believed half a second later, and begins three seconds after that
sleep 3.5
shot 04-countdown
sleep 9
shot 05-coaching
press space
shot 06-paused
press space
press l
shot 07-times
press l
press p
shot 08-patches
press p
press h
shot 09-keys
press Escape
press s
shot 10-settings
press Escape
press e
sleep 1
shot 11-summary
xdotool key v
sleep 1
shot 12-sessions
press Escape
shot 13-home-again
