# Sourced by the other scripts: makes .venv, installs what the script needs, once, and sets $root, $python and PYTHONPATH.
# $needs: requirements files beside requirements.txt, such as requirements-dev.txt.
# $TORCH_INDEX: address of another package index for PyTorch, such as its CPU index, whose packages are smaller.
set -eu
unset CDPATH  # with it, cd prints where it goes
root=$(cd "$(dirname "$0")/.." && pwd -P)
venv=$root/.venv
python=$venv/bin/python

# Memory that one network call frees stays for the next, in large pages: docs/performance.md. Only glibc reads this.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=8589934592}"

# A copy of each file that is installed lies in .venv. It is written last, so an interrupted installation starts again.
missing() {
    for file in requirements.txt ${needs:-}; do
        [ -f "$venv/installed-$file" ] && [ "$(cat "$root/$file")" = "$(cat "$venv/installed-$file")" ] || echo "$file"
    done
}

install_packages() {
    if [ ! -f "$venv/installed-requirements.txt" ] || ! "$python" -c pass 2>/dev/null; then
        rm -rf "$venv"
        if ! python3 -m venv "$venv"; then
            echo "error: python3 cannot make a virtual environment (Debian and Ubuntu: apt install python3-venv)" >&2
            exit 2
        fi
    fi
    for file in $(missing); do
        echo "Installing the packages of $file into $venv (a few minutes, once) ..." >&2
        if [ "$file" = requirements.txt ] && [ -n "${TORCH_INDEX:-}" ]; then
            torch=$(grep '^torch' "$root/$file")
            "$python" -m pip install --quiet --disable-pip-version-check --index-url "$TORCH_INDEX" $torch >&2
        elif [ "$file" = requirements.txt ] && ! command -v nvidia-smi >/dev/null; then
            echo "note: no NVIDIA GPU is found; TORCH_INDEX=ADDRESS_OF_PYTORCH'S_CPU_INDEX before the command installs smaller packages" >&2
        fi
        "$python" -m pip install --quiet --disable-pip-version-check -r "$root/$file" >&2
        cp "$root/$file" "$venv/installed-$file"
    done
}

if ! "$python" -c pass 2>/dev/null || [ -n "$(missing)" ]; then
    (
        if command -v flock >/dev/null; then flock 9; fi  # a script started meanwhile waits, and finds them installed
        install_packages
    ) 9>"$root/.venv.lock"
fi

export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"  # `python -m runs.demo` and others work from any folder
