# kdc on a GPU: ONNX Runtime's CUDA provider, TensorRT and torch.
#
#   docker build -t kdc .
#   docker run --rm --gpus all -v "$PWD/runs:/home/kdc/runs" kdc doctor
#
# Not built or run where this file was written: there was neither a Docker daemon nor a GPU.
# CUDA, cuDNN and TensorRT come as wheels, which torch and ONNX Runtime bring anyway; the base gives what the NVIDIA
# container toolkit needs. Its CUDA major must be that of the wheels, and the host's driver must know it (r580+ for 13).
# ONNX Runtime's own TensorRT provider is not in it: that wants TensorRT 10, and one process holds one TensorRT.
ARG BASE=nvidia/cuda:13.0.1-base-ubuntu24.04

FROM ${BASE} AS build
# the distribution's own patch releases are wanted
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/kdc
ENV PATH=/opt/kdc/bin:$PATH
WORKDIR /src
# first what changes seldom: the packages are installed anew only when pyproject.toml changes
COPY pyproject.toml ./
RUN python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
o = p["optional-dependencies"]; print(*p["dependencies"], *o["gpu"], *o["trt"], sep="\n")' > /tmp/requirements.txt \
    && python -m pip install --no-cache-dir --requirement /tmp/requirements.txt
COPY README.md LICENSE __init__.py __main__.py api.py api.pyi cli.py ./
COPY calib calib
COPY deploy deploy
COPY distill distill
COPY export export
RUN python -m pip install --no-cache-dir --no-deps .

FROM ${BASE}
# g++ and Python's headers are for torch.compile and kdc export aoti
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ python3 python3-dev \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 kdc
COPY --from=build /opt/kdc /opt/kdc
# "video" lets TensorRT and torch see the GPU's decoder too; OpenCV is the headless build, no display is needed
ENV PATH=/opt/kdc/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility,video
USER kdc
WORKDIR /home/kdc
ENTRYPOINT ["kdc"]
CMD ["doctor"]
