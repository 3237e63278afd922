# Sourced by scripts/mutate, scripts/sanitize and others from the root of the repository. Builds the package in a
# directory of its own, with options that no release has.
#
# PYTHON_WITH_TORCH names a Python that has torch and what builds this project; without it, .venv is set up and used.

if [[ -z "${PYTHON_WITH_TORCH:-}" ]]; then
  source scripts/setup.sh
  PYTHON_WITH_TORCH="$PWD/.venv/bin/python"
fi

# special_build DIRECTORY CMAKE_ARGUMENT...: afterwards DIRECTORY/package is what PYTHONPATH has to name.
special_build() {
  local directory="$1" tools
  shift
  tools="$(dirname "$PYTHON_WITH_TORCH")"
  PATH="$tools:$PATH" cmake -S . -B "$directory" -G Ninja -DPython_EXECUTABLE="$PYTHON_WITH_TORCH" "$@" >/dev/null
  PATH="$tools:$PATH" cmake --build "$directory" >/dev/null
  rm -rf "$directory/package"
  mkdir -p "$directory/package"
  cp -R python/fastfake "$directory/package/"
  rm -rf "$directory/package/fastfake/native"
  cp -R "$directory/native" "$directory/package/fastfake/"
}
