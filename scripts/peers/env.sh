#!/bin/sh
# An environment for each peer of bench_index.py, bench_encoding.py and tests/parity in
# DATA/envs/<name>, made once, with pip only.
#   scripts/peers/env.sh DATA [name ...]     names: tachiom qdrant-edge lancedb torch fast-plaid
#                                                   xtr-warp pylate sbert mteb colpali (default: all)
# "torch" is not a peer: fast-plaid, xtr-warp and pylate are wheels for exactly torch 2.11 and look
# into that environment for it, since each copy is 5 GB; so do sbert (sentence-transformers 6) and
# colpali (colpali-engine). What cannot be installed leaves its reason in DATA/envs/<name>.failed,
# which the benchmark repeats in its results. "mteb" lives beside lateint: it sees the packages of
# $PYTHON, where lateint is installed.
set -u
data=${1:?folder}; shift
python=${PYTHON:-python3}
names=${*:-tachiom qdrant-edge lancedb torch fast-plaid xtr-warp pylate sbert mteb colpali}
mkdir -p "$data/envs"
envs=$(cd "$data/envs" && pwd)

over_torch() { # $1: sees the packages of the environment "torch" after its own
  inner=$("$envs/torch/bin/python" -c 'import site; print(site.getsitepackages()[0])') || return 1
  outer=$("$envs/$1.part/bin/python" -c 'import site; print(site.getsitepackages()[0])') || return 1
  echo "$inner" > "$outer/torch_of_the_peers.pth"
}

over_ours() { # $1: sees the packages of the Python that has lateint, editable installs too
  inner=$("$python" -c 'import lateint, site; print(site.getsitepackages()[0])') || return 1
  outer=$("$envs/$1.part/bin/python" -c 'import site; print(site.getsitepackages()[0])') || return 1
  echo "import site; site.addsitedir('$inner')" > "$outer/packages_beside_lateint.pth"
}

for name in $names; do
  [ -d "$envs/$name" ] && continue
  rm -rf "$envs/$name.part" "$envs/$name.failed"
  log=$envs/$name.log
  pip="$envs/$name.part/bin/python -m pip install -q --no-compile"
  {
    "$python" -m venv "$envs/$name.part" && case $name in
      # the wheel asks for glibc 2.39 by its name; the two symbols that it means are weak ones
      tachiom) $pip numpy && $pip --no-deps --only-binary=:all: --python-version 3.11 \
        --platform manylinux_2_39_x86_64 --implementation cp --upgrade \
        --target "$("$envs/$name.part/bin/python" -c 'import site; print(site.getsitepackages()[0])')" \
        tachiom==0.4.0 ;;
      qdrant-edge) $pip numpy qdrant-edge-py==0.9.0 ;;
      lancedb) $pip numpy pyarrow lancedb==0.40.0 ;;
      torch) $pip numpy torch==2.11.0 ;;
      fast-plaid) over_torch $name && $pip fast-plaid==1.7.0.2110 ;;
      xtr-warp) over_torch $name && $pip xtr-warp-rs==2.1.0.2110 ;;
      pylate) over_torch $name && $pip 'pylate[voyager,scann]==1.6.0' fast-plaid==1.4.6.2110 ;;
      sbert) over_torch $name && $pip sentence-transformers==6.2.0 ;;
      colpali) over_torch $name && $pip torchvision==0.26.0 transformers==5.23.0 colpali-engine==0.3.18 ;;
      mteb) over_ours $name && $pip mteb==2.26.24 ;;
      *) echo "no such peer: $name"; false ;;
    esac
  } > "$log" 2>&1
  if [ $? = 0 ]; then
    mv "$envs/$name.part" "$envs/$name"
    echo "$name: ready"
  else
    grep -v 'is ignored' "$log" | tail -n 3 > "$envs/$name.failed"
    rm -rf "$envs/$name.part"
    echo "$name: $(cat "$envs/$name.failed")"
  fi
done
