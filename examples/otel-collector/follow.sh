#!/bin/sh
# Appends the events of the image cache to a file as they happen, each as a CloudEvent on a line of its own:
#   follow.sh /var/log/msb-cache/events.jsonl
# Started again, it goes on behind the last event that is in the file, or in the one before it (FILE.1) where the file is
# new; the first time, it begins with the whole log. A line that was cut in two is ended, and its event comes again. What is
# given behind the file goes to `msb-cache events`, such as --no-people. It needs jq.
set -eu
file=$1
shift
umask 077
: >>"$file"
last=0
for each in "$file.1" "$file"; do
  [ -f "$each" ] || continue
  found=$(tail -n 2 "$each" | jq -Rr 'fromjson? | objects | .sequence // empty' | tail -n 1)
  last=${found:-$last}
done
[ -z "$(tail -c 1 "$file")" ] || echo >>"$file"
# With leading zeros, if it has any, a shell would take it for another number.
last=$(echo "$last" | sed 's/^0*//')
exec msb-cache events --follow --format cloudevents --since "@$((${last:-0} + 1))" "$@" >>"$file"
