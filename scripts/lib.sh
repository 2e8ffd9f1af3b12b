# shellcheck shell=bash
# What the scripts beside it share: sourced, never run. Defines $root (the repository's folder), $venv (its
# environment), say, die, step, and setup, which makes that environment once and afterwards finds it good
# within a blink. Needs bash (3.2, as on macOS, will do), Python 3.11+ and pip's package index.

set -euo pipefail
unset CDPATH

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

say() { printf '%s\n' "$*" >&2; }

die() {
  say "error: $*"
  exit 1
}

# Prints the comment at the top of the script that was called, and ends it as wrongly called.
usage() {
  sed -n '2,/^$/s/^# \{0,1\}//p' "$0" >&2
  exit "${1:-2}"
}

# Shows a command as a user would type it, then runs it.
step() {
  say "+ $*"
  "$@"
}

# Prints the first Python that can make our environments: $PYTHON if set, else the newest known on PATH.
find_python() {
  local candidate verdict old="" bare=""
  local candidates=(python3.13 python3.12 python3.11 python3 python)
  local question='
import sys
def missing():
    from importlib.util import find_spec
    return find_spec("venv") is None or find_spec("ensurepip") is None
print("old" if sys.version_info < (3, 11) else "bare" if missing() else "good")'
  if [ -n "${PYTHON:-}" ]; then candidates=("$PYTHON"); fi
  for candidate in "${candidates[@]}"; do
    verdict=$("$candidate" -c "$question" 2>/dev/null || true)
    case $verdict in
      good)
        printf '%s\n' "$candidate"
        return
        ;;
      old) old=$candidate ;;
      bare) bare=$candidate ;;
    esac
  done
  if [ -n "$bare" ]; then
    die "$bare lacks venv or ensurepip: install them (Debian, Ubuntu: apt install python3-venv), or set PYTHON to another Python 3.11 or newer"
  elif [ -n "$old" ]; then
    die "$old is older than Python 3.11: install a newer one, or set PYTHON to one"
  fi
  die "no Python that runs among: ${candidates[*]}. Install Python 3.11 or newer, or set PYTHON to one"
}

# Prints what the environment in folder $1 depends on, as one digest. When it changes, pip has to run again.
# Fails if the environment's Python does not run: there is none, it is half made, or its base was removed.
fingerprint() {
  "$1/bin/python" -c '
import hashlib, pathlib, sys
digest = hashlib.sha256(repr((sys.version, sys.base_prefix)).encode())
for name in ("pyproject.toml", "parallamr_mp/_version.py"):
    digest.update(pathlib.Path(sys.argv[1], name).read_bytes())
print(digest.hexdigest())' "$root" 2>/dev/null
}

# stamp DIR LABEL: the folder's own note on how far it got. It says where it was made, for a virtual
# environment that was moved or copied has the old place written into its scripts.
stamp() { printf '%s\n' "$2" "$(fingerprint "$1" || true)" "$1" >"$1/.stamp"; }

# good_env DIR LABEL...: DIR was finished under one of these labels, here, and nothing changed since.
good_env() {
  local dir=$1 label
  shift
  if [ -n "${PYTHON:-}" ] && ! suits "$dir"; then return 1; fi
  for label in "$@"; do
    if [ "$(cat "$dir/.stamp" 2>/dev/null)" = "$(printf '%s\n' "$label" "$(fingerprint "$dir")" "$dir")" ]; then return; fi
  done
  return 1
}

# suits DIR: an environment that pip can go on with. One without a stamp was made by the user: ours to use.
suits() {
  local made_at
  made_at=$(sed -n 3p "$1/.stamp" 2>/dev/null || true)
  [ "$(sed -n 1p "$1/.stamp" 2>/dev/null)" != unfinished ] && [ "${made_at:-$1}" = "$1" ] || return 1
  "$1/bin/python" -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || return 1
  [ -z "${PYTHON:-}" ] || [ "$("$PYTHON" -c "$version")" = "$("$1/bin/python" -c "$version")" ]
}
version='import sys; print(sys.version)'

# make_env DIR: afterwards DIR is a virtual environment with a pip that works, marked as unfinished:
# a run that is interrupted from here on leaves a folder that the next one makes anew.
make_env() {
  local python
  if ! suits "$1"; then
    python=$(find_python)
    say "Making ${1#"$root"/} with $("$python" -c 'import sys; print("Python", sys.version.split()[0])')"
    rm -rf "$1"
    mkdir -p "$1"
    stamp "$1" unfinished
    "$python" -m venv "$1" || die "$python could not make a virtual environment in $1"
  fi
  stamp "$1" unfinished
}

# fill_env DIR LABEL PIP_ARGUMENT...: installs and, if all went well, says so in the stamp.
fill_env() {
  local dir=$1 label=$2
  shift 2
  say "Installing into ${dir#"$root"/}; only this once, it takes a minute at most on most networks"
  "$dir/bin/python" -m pip install -qq "$@" || die "pip could not install, see above"
  stamp "$dir" "$label"
}

# Prints the requirements in dependency group $1 of pyproject.toml that begin with $2, one a line.
# (pip reads groups itself only since 25.1, newer than the one that comes with Python 3.11.)
dependency_group() {
  "$venv/bin/python" -c '
import pathlib, sys, tomllib
file, group, beginning = sys.argv[1:]
groups = tomllib.loads(pathlib.Path(file).read_text(encoding="utf-8"))["dependency-groups"]
def entries(name):
    for entry in groups[name]:
        yield from [entry] if isinstance(entry, str) else entries(entry["include-group"])
print(*[entry for entry in entries(group) if entry.startswith(beginning)], sep="\n")' \
    "$root/pyproject.toml" "$1" "${2:-}"
}

# setup runtime|dev: makes the repository's environment, for users or with the tools of tests and checks too,
# and puts it first on PATH.
setup() {
  case $1 in
    runtime)
      if ! good_env "$venv" runtime dev; then
        make_env "$venv"
        fill_env "$venv" runtime --editable "$root"
      fi
      ;;
    dev)
      if ! good_env "$venv" dev; then
        make_env "$venv"
        dependency_group dev >"$venv/dev-requirements.txt"
        fill_env "$venv" dev --editable "$root" --requirement "$venv/dev-requirements.txt"
      fi
      ;;
    *) die "setup: runtime or dev, not $1" ;;
  esac
  export PATH="$venv/bin:$PATH"
}
