#!/bin/sh
# The main job in half a minute, on a real image, in a home of its own. Run it with `make demo`.
set -eu

work=$(mktemp -d "${TMPDIR:-/tmp}/msb-cache-demo.XXXXXX")
registry=''
trap '[ -z "$registry" ] || kill "$registry" 2>/dev/null; rm -rf "$work"' EXIT INT TERM
export MSB_HOME="$work/home"

bold='' plain=''
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$(printf '\033[1m') plain=$(printf '\033[0m'); fi

say() { printf '\n%s# %s%s\n' "$bold" "$1" "$plain"; }
run() { printf '%s$ msb-cache %s%s\n' "$bold" "$*" "$plain"; msb-cache "$@"; }

say "A real image with three layers, made from this machine's own shell and Python"
python3 "$(dirname "$0")/build_image.py" "$work/python.tar" --tag python:3.12 >/dev/null
ls -lh "$work/python.tar" | awk '{print $5, "docker-save archive"}'

say "Load it under two names"
run load -i "$work/python.tar" --tag myapp:dev
run list
run inspect python:3.12

say "A sandbox boots it, and needs it from then on"
run use python:3.12 --holder sandbox:dev
run hold python:3.12 sandbox:dev

say "So a prune keeps it, and says why"
run prune --dry-run
run prune --yes

say "The sandbox ends; a prune takes everything"
run release sandbox:dev
run prune --yes --reason "nightly clean-up"
run list

say "Who removed it, when, and what went with it?"
run history python:3.12
run why python:3.12
run prunes
run prunes show "$(msb-cache prunes --format json | python3 -c 'import json, sys; print(json.load(sys.stdin)[0]["operation"])')"

if command -v docker-registry >/dev/null && command -v skopeo >/dev/null; then
  say "Pull it from a registry, here one on this machine; the second time nothing is fetched"
  port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  printf 'version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n' >"$work/registry.yml"
  printf 'storage: {filesystem: {rootdirectory: %s/registry}}\nhttp: {addr: "127.0.0.1:%s"}\n' "$work" "$port" >>"$work/registry.yml"
  docker-registry serve "$work/registry.yml" >/dev/null 2>&1 &
  registry=$!
  tries=0
  until python3 -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:$port/v2/')" 2>/dev/null; do
    tries=$((tries + 1)); [ "$tries" -lt 50 ] || { echo "the registry does not start" >&2; exit 1; }
    sleep 0.1
  done
  skopeo copy --quiet --dest-tls-verify=false "docker-archive:$work/python.tar" "docker://localhost:$port/python:3.12"
  run pull "localhost:$port/python:3.12"
  run pull --policy always "localhost:$port/python:3.12"
fi

say "The log is whole, and the index and the disk are what it says"
run verify
