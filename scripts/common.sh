# shellcheck shell=bash
# What setup, quickstart, test and bench share: words on the terminal, the tree, its owner, Node.
# Sourced, never run. Sets ROOT and OWNER.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
readonly ROOT
readonly NODE_NEEDED=20.19

# The person the tree belongs to: what is built stays theirs, also under sudo.
OWNER=$(stat -c %U "$ROOT")
readonly OWNER

# shellcheck disable=SC2034  # used by those that source this
if [[ -t 1 ]]; then
  bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'
else
  bold='' dim='' plain=''
fi

say() { printf '%s\n' "$*"; }

# One sentence on what failed and what to do, then the end.
die() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

now_ms() {
  local time=${EPOCHREALTIME/[.,]/}
  printf '%s' "$((time / 1000))"
}

# 1234 → 1.2 s
seconds() { printf '%d.%d s' "$(($1 / 1000))" "$(($1 % 1000 / 100))"; }

is_root() { [[ $EUID -eq 0 ]]; }

# Runs a command as the tree's owner, with this PATH.
as_owner() {
  if is_root && [[ $OWNER != root ]] && id "$OWNER" >/dev/null 2>&1; then
    runuser -u "$OWNER" -- env PATH="$PATH" HOME="$(getent passwd "$OWNER" | cut -d: -f6)" "$@"
  else
    "$@"
  fi
}

# Where a Node may be: sudo's PATH is short, and many install it under their home.
node_candidates() {
  local home
  command -v node || true
  printf '%s\n' /usr/local/bin/node /usr/bin/node /usr/bin/nodejs /snap/bin/node
  compgen -G '/usr/local/lib/nodejs/*/bin/node' || true
  compgen -G '/opt/node*/bin/node' || true
  for home in "$(getent passwd "${SUDO_USER:-}" | cut -d: -f6)" \
    "$(getent passwd "$OWNER" | cut -d: -f6)" "${HOME:-}"; do
    [[ -n $home ]] || continue
    compgen -G "$home/.nvm/versions/node/*/bin/node" | sort -rV || true
    compgen -G "$home/.local/share/fnm/node-versions/*/installation/bin/node" | sort -rV || true
    compgen -G "$home/.asdf/installs/nodejs/*/bin/node" | sort -rV || true
    compgen -G "$home/.volta/tools/image/node/*/bin/node" | sort -rV || true
  done
}

# is_new_enough VERSION: whether it is NODE_NEEDED or later.
is_new_enough() {
  [[ $(printf '%s\n%s\n' "$NODE_NEEDED" "$1" | sort -V | head -n 1) == "$NODE_NEEDED" ]]
}

# Puts a Node that is new enough first in PATH, where there is one; fails where there is none, and
# says in `node_seen` what was found instead.
find_node() {
  local candidate version
  node_seen=''
  while IFS= read -r candidate; do
    [[ -x $candidate ]] || continue
    version=$("$candidate" -p process.versions.node 2>/dev/null) || continue
    if is_new_enough "$version"; then
      PATH=$(dirname "$candidate"):$PATH
      export PATH
      return 0
    fi
    node_seen="${node_seen:-$version at $candidate}"
  done < <(node_candidates)
  return 1
}
