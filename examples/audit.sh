#!/bin/sh
# An audit of an image cache as a report in Markdown, from nothing but `--format json` and jq:
#   sh examples/audit.sh >audit.md
#   SINCE="4 weeks ago" HOME_OF_CACHE=/srv/microsandbox sh examples/audit.sh
set -eu

since=${SINCE:-1 week ago}
cache() { msb-cache ${HOME_OF_CACHE:+--home "$HOME_OF_CACHE"} "$@"; }

echo "# Image cache of $(hostname), $(date -u +%Y-%m-%d)"

printf '\n## What is here\n\n'
cache list --format json | jq -r '
  "\(length) images, \([.[].size_bytes // 0] | add // 0) bytes compressed",
  "",
  (sort_by(-(.size_bytes // 0))[:10][] |
    "- \(.reference) \(.digest[7:19]) \(.size_bytes // "?") bytes, last used \(.last_used_at[:10])" +
    (if .held_by + .in_use_by == [] then "" else ", used by \(.held_by + .in_use_by | unique | join(" "))" end))'

printf '\n## Not used for 30 days\n\n'
cache last-used --idle-for '30 days' --format json | jq -r '
  if . == [] then "none" else .[] | "- \(.reference), since \(.last_used_at[:10])" end'

printf '\n## Who removed what since %s\n\n' "$since"
cache events --since "$since" --type image.removed --format json | jq -r '
  if . == [] then "nothing was removed" else
    group_by(.actor.login // .actor.user)[] |
    "- \(.[0].actor.login // .[0].actor.user): " +
      ([.[] | "\(.subject) (\(.data.cause)\(if .actor.reason then ", \(.actor.reason)" else "" end))"] | join(", "))
  end'

printf '\n## Prunes since %s\n\n' "$since"
cache prunes --format json | jq -r '
  if . == [] then "none" else
    .[:20][] | "- \(.started_at[:16]) \(.kind) by \(.actor.login // .actor.user): \(.bytes_reclaimed) bytes, " +
      "\(.outcome // "unfinished") (\(.operation))"
  end'

printf '\n## What failed since %s\n\n' "$since"
cache events --since "$since" --type image.pull_failed --type artifact.delete_failed --format json | jq -r '
  if . == [] then "nothing" else .[] | "- \(.recorded_at[:16]) \(.type) \(.subject)" end'

printf '\n## Is the log whole?\n\n'
# It ends with 1 where something is wrong, and says what all the same.
{ cache verify --format json || true; } | jq -r '
  "- sound: \(.sound), \(.chain.events) events, head \(.chain.head[:12])",
  (.disk[] | "- \(.)"), (.schema[] | "- \(.)"), (.differences[] | "- \(.)")'
