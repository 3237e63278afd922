# Sourced by ./demo and ./run-tests from the root of the repository. Makes .venv, and installs this project in it
# whenever a file that goes into the package has changed since the last time. TORCH=2.15 in the environment names the
# minor release of torch to have there; otherwise one that is there stays, and the first one is 2.13.
#
# The build is not isolated: cmake and ninja are installed once instead of for every change, and serve scripts/mutate
# and scripts/sanitize too.

set -euo pipefail

_python="$PWD/.venv/bin/python"

# A line per file that goes into the package, so that a file added or removed counts as a change too.
_fingerprint() {
  find csrc python CMakeLists.txt pyproject.toml README.md LICENSE scripts/setup.sh \
    scripts/find_torch.py scripts/build_backend.py -type f ! -name '*.pyc' ! -name '*.so' -exec cksum {} + | LC_ALL=C sort
  _torch_version
}

# Of the torch in .venv; nothing where there is none.
_torch_version() {
  "$_python" -c 'from importlib.metadata import version; print(version("torch"))' 2>/dev/null || true
}

# Installs torch in .venv, unless that has the minor release that is wanted, or any where none is named.
_provide_torch() {
  local present wanted="${TORCH:-}"
  present="$(_torch_version)"
  if [[ -n "$present" && ( -z "$wanted" || "$present" == "$wanted" || "$present" == "$wanted"[.+]* ) ]]; then
    return
  fi
  wanted="${wanted:-2.13}"
  if [[ "$wanted" != *.*.* ]]; then wanted="$wanted.*"; fi
  echo "Installing torch $wanted in .venv" >&2
  "$_python" -m pip install --quiet "torch==$wanted"
}

# What [build-system] of pyproject.toml requires, a line each.
_build_requirements() {
  "$_python" - <<'EOF'
try:
    import tomllib
except ImportError:  # Python 3.10
    from pip._vendor import tomli as tomllib

with open("pyproject.toml", "rb") as file:
    print(*tomllib.load(file)["build-system"]["requires"], sep="\n")
EOF
}

_set_up() {
  local base="${PYTHON:-python3}"
  if ! "$base" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
    echo "fastfake needs Python 3.10 or newer as '$base'; name another with PYTHON=..." >&2
    return 1
  fi
  # Asking for pip, not only for a Python, finds an environment whose creation was interrupted.
  if ! "$_python" -m pip --version >/dev/null 2>&1; then
    echo "Making .venv" >&2
    "$base" -m venv --clear .venv
  fi

  _provide_torch

  local stamp=.venv/fastfake-sources fingerprint
  fingerprint="$(_fingerprint)"
  if [[ -f "$stamp" && "$(<"$stamp")" == "$fingerprint" ]]; then
    return
  fi
  rm -f "$stamp"
  echo "Installing fastfake in .venv (which takes a minute: it compiles)" >&2
  _build_requirements > .venv/build-requirements.txt
  "$_python" -m pip install --quiet --requirement .venv/build-requirements.txt
  "$_python" -m pip install --quiet --no-build-isolation --config-settings=build-dir=build/venv '.[test]'
  printf '%s\n' "$fingerprint" > "$stamp"
}

_set_up
