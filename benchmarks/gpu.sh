#!/usr/bin/env bash
# Shows what a GPU does, with JAX and PyTorch. TensorFlow need not be installed.
#     benchmarks/gpu.sh OUTPUT [smoke] [speed] [train]
# smoke: tests of the numerics. speed: the network of the keras.io example beside diffusers, and a
# large matrix product. train: flowers64.yaml for at most MINUTES (9) of a call; the next call goes
# on from the last checkpoint. The end is 100 samples of each sampler, not selected, and a preset.
set -euo pipefail
output=$(realpath -m "${1:?the folder for results}")
shift
cd "$(dirname "$0")/.."
mkdir -p "$output"
for part in "${@:-smoke}"; do
  case "$part" in
    smoke)
      for backend in jax torch; do
        KERAS_BACKEND=$backend python -m pytest -q tests/numerics | tee "$output/$backend.txt"
      done ;;
    speed)
      python benchmarks/speed.py training sampling --backends jax torch --networks large \
        --batch_size 64 --matrix_size 8192 --rounds 3 --output "$output" ;;
    train)
      export KERAS_BACKEND=${KERAS_BACKEND:-jax} model="$output/flowers64/final.keras"
      [ -e "$model" ] || timeout "${MINUTES:-9}m" keras-ddpm train \
        --config flowers64 --run "$output/flowers64"
      python -c "import keras_ddpm, sys
keras_ddpm.load_diffusion_model(sys.argv[1]).save_to_preset(sys.argv[2])" "$model" "$output/preset"
      for options in "ddpm --steps 1000" "ddim --steps 50" "dpm_solver++ --steps 20"; do
        keras-ddpm sample "$model" --num_images 100 --output "$output/${options%% *}" \
          --sampler $options
      done ;;
  esac
done
