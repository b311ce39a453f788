#!/usr/bin/env bash
# Run Detectron2's own tests against iaunet-d2's stand-in for Detectron2.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: tools/conformance.sh TESTS [PYTEST_OPTION ...]

Runs Detectron2's own tests on iaunet_d2.standin. TESTS is the folder "tests" of a checkout of
Detectron2 (https://github.com/facebookresearch/detectron2); it is copied, not changed. What the
stand-in leaves out on purpose (LEFT_OUT in iaunet_d2/standin/__init__.py) is left out here, too,
and listed with the reason. The exit status is 0 where everything that the stand-in offers passes.

PYTEST_OPTIONs go to pytest, as in: tools/conformance.sh ~/detectron2/tests -k Boxes
PYTHON names the interpreter, "python" by default.
TEXT
}

case "${1:-}" in
    -h | --help) usage; exit 0 ;;
    "" | -*) usage >&2; exit 2 ;;
esac
tests=$1
shift
if [ ! -f "$tests/test_engine.py" ]; then
    echo "$tests is not the folder of Detectron2's tests: it has no test_engine.py" >&2
    exit 2
fi
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$(command -v "${PYTHON:-python}") || {
    echo "no interpreter \"${PYTHON:-python}\": set PYTHON to one that has iaunet-d2's dependencies" >&2
    exit 2
}
case $python in /*) ;; *) python=$PWD/$python ;; esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -R "$tests" "$work/tests"
cp "$root/tools/conformance_conftest.py" "$work/conftest.py"
: >"$work/pytest.ini"

cd "$work"
export IAUNET_D2_STANDIN=1 MPLBACKEND=Agg FVCORE_CACHE="$work/cache"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" PYTHONDONTWRITEBYTECODE=1
"$python" -m pytest -q -c pytest.ini -p no:cacheprovider --continue-on-collection-errors \
    --disable-warnings tests "$@"
