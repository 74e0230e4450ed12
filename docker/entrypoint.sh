#!/bin/sh
# Starts `tamis` with the kernels that the image holds ready, which are copied into TAMIS_HOME once: Numba wants to be
# able to write where it reads.
set -eu

if [ -n "${NUMBA_CPU_NAME:-}" ] && ! grep -qw avx2 /proc/cpuinfo; then
    echo "This processor has no AVX2: kernels are compiled for it when they are first used." >&2
    unset NUMBA_CPU_NAME NUMBA_CPU_FEATURES
fi
for kernels in /opt/kernels/numba-*; do
    there="$TAMIS_HOME/cache/${kernels##*/}"
    if [ ! -e "$there" ]; then
        mkdir -p "$TAMIS_HOME/cache"
        cp -R -p "$kernels" "$there.$$.tmp"
        # Several containers may share the home: who comes second keeps the first one's.
        mv -n -T "$there.$$.tmp" "$there"
        rm -rf "$there.$$.tmp"
    fi
done
exec tamis "$@"
