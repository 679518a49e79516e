# Sourced by the other scripts: makes .venv and installs requirements.txt, once, and sets $root, $python and PYTHONPATH.
# A marker is written last, so an installation that was interrupted is started again from nothing.
set -eu
unset CDPATH  # with it, cd prints where it goes
root=$(cd "$(dirname "$0")/.." && pwd)
venv=$root/.venv
python=$venv/bin/python
marker=$venv/installed-requirements.txt

# Memory that one network call frees stays for the next, in large pages: docs/performance.md. Only glibc reads this.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=8589934592}"

wants_packages() {
    [ ! -f "$marker" ] || [ "$(cat "$root/requirements.txt")" != "$(cat "$marker")" ] || ! "$python" -c pass 2>/dev/null
}

install_packages() {
    echo "Installing the packages of requirements.txt into $venv (a few minutes, once) ..." >&2
    if [ ! -f "$marker" ] || ! "$python" -c pass 2>/dev/null; then
        rm -rf "$venv"
        if ! python3 -m venv "$venv"; then
            echo "error: python3 cannot make a virtual environment (Debian and Ubuntu: apt install python3-venv)" >&2
            exit 2
        fi
    fi
    "$python" -m pip install --quiet --disable-pip-version-check -r "$root/requirements.txt" >&2
    cp "$root/requirements.txt" "$marker"
}

if wants_packages; then
    (
        if command -v flock >/dev/null; then flock 9; fi  # a script started meanwhile waits, and finds them installed
        if wants_packages; then install_packages; fi
    ) 9>"$root/.venv.lock"
fi

export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"  # `python -m runs.demo` and others work from any folder
