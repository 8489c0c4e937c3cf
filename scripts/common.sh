# SPDX-License-Identifier: Apache-2.0
# What demo and test share. Sourced by them, with $log set.
# shellcheck shell=bash
: "${log:?}"

say() {
  if [[ -t 1 ]]; then printf '\033[1m%s\033[0m\n' "$*"; else printf '%s\n' "$*"; fi
}

fail() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

# A step whose output goes to the log; a dot every five seconds shows that it lives.
step() { # step WHAT COMMAND...
  local what=$1 start=$SECONDS pid status=0
  shift
  printf '%s ' "$what"
  printf '\n== %s\n' "$what" >>"$log"
  "$@" >>"$log" 2>&1 </dev/null &
  pid=$!
  (while sleep 5 && kill -0 "$pid"; do printf .; done) 2>/dev/null &
  wait "$pid" || status=$?
  if ((status)); then
    printf ' failed\n'
    [[ -z ${CI:-} ]] || awk -v start="== $what" '$0 == start, 0' "$log" | tail -n 100
    fail "$what failed with status $status; the log is $log"
  fi
  printf ' %d s\n' $((SECONDS - start))
}

# The first Python of a supported version that runs and can make environments.
find_python() {
  local python
  for python in "${PYTHON:-}" python3.12 python3.11 python3.13 python3.10 python3; do
    [[ -n $python ]] || continue
    if "$python" -c '
import ensurepip, sys, venv
sys.exit(not (3, 10) <= sys.version_info < (3, 14))' >/dev/null 2>&1; then
      command -v "$python"
      return
    fi
  done
  fail "no Python 3.10 to 3.13 with venv here; on Debian: apt-get install python3 python3-venv," \
    "or set PYTHON to one"
}

# Make the environment $1 unless it is there.
environment() {
  [[ -x $1/bin/python ]] || step "Creating ${1##*/} with $python" "$python" -m venv "$1"
}

variant() {
  if [[ -n ${VLLM_TARGET_DEVICE:-} ]]; then
    echo "$VLLM_TARGET_DEVICE"
  elif [[ -e /proc/driver/nvidia/version || -e /dev/nvidiactl || -e /dev/dxg ]]; then
    echo cuda
  else
    echo cpu
  fi
}

# The one library of the cpu variant that pip does not bring.
libnuma() {
  "$python" -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null && return
  if ((EUID)) || ! command -v apt-get >/dev/null; then
    fail "libnuma.so.1 is missing; on Debian, as root: apt-get install libnuma1"
  fi
  step "Installing libnuma1 with apt-get" \
    bash -c 'apt-get update && apt-get install -y --no-install-recommends libnuma1'
}
