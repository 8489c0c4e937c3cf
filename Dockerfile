# SPDX-License-Identifier: Apache-2.0
# The wheel of this checkout, and an image that serves with it.
#
#   docker build -t vllm-helion .
#   docker run --gpus all -p 8000:8000 -v vllm-cache:/cache vllm-helion Qwen/Qwen3-8B-FP8
#
# torch's wheel brings CUDA's libraries: of the base image only the driver's hooks are used.
ARG BASE_IMAGE=docker.io/nvidia/cuda:13.0.2-base-ubuntu24.04

FROM ${BASE_IMAGE} AS python
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 ca-certificates \
 && rm -rf /var/lib/apt/lists/*

FROM python AS build
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv git
WORKDIR /src
COPY . .
# cuda or cpu; and, to keep the code of one GPU architecture only, such as 9.0a for Hopper:
ARG VLLM_TARGET_DEVICE=cuda
ARG VLLM_HELION_CUDA_ARCH_LIST=
# git: the files may belong to another user than this stage's. pip goes, nothing needs it later.
RUN --mount=type=cache,target=/root/.cache \
    git config --global --add safe.directory /src \
 && python3 -m venv /opt/vllm \
 && /opt/vllm/bin/pip wheel --no-deps --wheel-dir /wheel . \
 && /opt/vllm/bin/pip install /wheel/*.whl \
 && /opt/vllm/bin/pip uninstall -y pip

FROM python
# Triton compiles a small C launcher for each kernel of upstream's, and of ours that no pack holds,
# when it first runs: a compiler and the headers of Python and libc stay, and no other build tool.
# libnuma is for the cpu variant.
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev libpython3-dev libnuma1 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 2000 --create-home vllm \
 && install -d -o vllm -g vllm /cache
COPY --from=build /opt/vllm /opt/vllm
ENV PATH=/opt/vllm/bin:$PATH \
    HF_HOME=/cache/huggingface \
    VLLM_CACHE_ROOT=/cache/vllm \
    TRITON_CACHE_DIR=/cache/triton \
    VLLM_USE_FLASHINFER_SAMPLER=0 \
    VLLM_USE_DEEP_GEMM=0
# The last two compile with nvcc, which is not here.
USER vllm
WORKDIR /home/vllm
VOLUME /cache
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=15m CMD \
    ["python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["vllm", "serve"]
