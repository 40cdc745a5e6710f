# Two images, the agent's and the operator's, by the same recipe for amd64 and arm64: targets `agent` and `operator`.
# Neither has a shell, pip or a package manager, and only the operator's has kopf.
# A release names both base images by digest, through these arguments: scripts/build-image --release refuses others.
ARG GO_IMAGE=golang:1.26-bookworm
ARG PYTHON_IMAGE=python:3.13-slim-bookworm

FROM --platform=$BUILDPLATFORM ${GO_IMAGE} AS wireguard-go
ARG TARGETARCH
ARG SOURCE_DATE_EPOCH=1767225600
WORKDIR /src
COPY tests/support/go/wireguard/go.mod tests/support/go/wireguard/go.sum ./
RUN CGO_ENABLED=0 GOOS=linux GOARCH=$TARGETARCH GOTOOLCHAIN=local \
    go build -trimpath -buildvcs=false -ldflags="-s -w -buildid=" -o /wireguard-go golang.zx2c4.com/wireguard \
 && touch --date=@$SOURCE_DATE_EPOCH /wireguard-go

FROM ${PYTHON_IMAGE} AS python
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_QUIET=1 PIP_ROOT_USER_ACTION=ignore \
    PIP="pip3 --python /opt/wesher/bin/python install --no-compile" \
    COMPILE="/opt/wesher/bin/python -m compileall -q --invalidation-mode unchecked-hash"
WORKDIR /src
RUN python3 -m venv --without-pip /opt/wesher

# A read-only root keeps no bytecode, so it is made here; checked by nothing, it is the same in every build.
FROM python AS agent-libraries
ARG SOURCE_DATE_EPOCH=1767225600
COPY requirements-agent.lock ./
RUN $PIP --require-hashes --only-binary :all: -r requirements-agent.lock \
 && $COMPILE /opt/wesher/lib \
 && find /opt/wesher -exec touch --no-dereference --date=@$SOURCE_DATE_EPOCH {} +

# The Kubernetes client loads its generated modules one by one when asked: theirs would double the image.
FROM python AS operator-libraries
ARG SOURCE_DATE_EPOCH=1767225600
COPY requirements-operator.lock ./
RUN $PIP --require-hashes --only-binary :all: -r requirements-operator.lock \
 && $COMPILE -x '/kubernetes/(aio/)?client/(api|models)/' /opt/wesher/lib \
 && find /opt/wesher -exec touch --no-dereference --date=@$SOURCE_DATE_EPOCH {} +

FROM python AS wheel
RUN python3 -m venv --without-pip /backend
COPY requirements-build.lock ./
RUN pip3 --python /backend/bin/python install --no-compile --require-hashes --only-binary :all: -r requirements-build.lock
COPY pyproject.toml README.md LICENSE ./
COPY common common
COPY agent agent
COPY operator operator
RUN /backend/bin/python -m hatchling build --target wheel --directory /wheel

# Only what is wesher's own goes on in these two: an upgrade then pulls one small layer.
# RECORD is for a package manager. The images have none, and it would list files that are removed here.
FROM agent-libraries AS agent-application
ARG SOURCE_DATE_EPOCH=1767225600
COPY --from=wheel /wheel /wheel
RUN $PIP --no-deps --no-index /wheel/wesher-*.whl \
 && cd /opt/wesher && rm -r bin/wesher-operator bin/kubectl-wesher \
    lib/python3.*/site-packages/wesher_operator lib/python3.*/site-packages/wesher-*.dist-info/RECORD \
 && $COMPILE /opt/wesher/lib/python3.*/site-packages/wesher_* \
 && mkdir /wesher && cd / \
 && cp --archive --parents opt/wesher/bin/*wesher* opt/wesher/lib/python3.*/site-packages/wesher* /wesher \
 && find /wesher -exec touch --no-dereference --date=@$SOURCE_DATE_EPOCH {} +

FROM operator-libraries AS operator-application
ARG SOURCE_DATE_EPOCH=1767225600
COPY --from=wheel /wheel /wheel
RUN $PIP --no-deps --no-index /wheel/wesher-*.whl \
 && cd /opt/wesher && rm -r bin/wesher \
    lib/python3.*/site-packages/wesher_agent lib/python3.*/site-packages/wesher-*.dist-info/RECORD \
 && $COMPILE /opt/wesher/lib/python3.*/site-packages/wesher_* \
 && mkdir /wesher && cd / \
 && cp --archive --parents opt/wesher/bin/*wesher* opt/wesher/lib/python3.*/site-packages/wesher* /wesher \
 && find /wesher -exec touch --no-dereference --date=@$SOURCE_DATE_EPOCH {} +

FROM python AS runtime
ARG SOURCE_DATE_EPOCH=1767225600
COPY --from=agent-libraries /opt/wesher /opt/agent
COPY --from=operator-libraries /opt/wesher /opt/operator
COPY scripts/runtime-tree ./
RUN python3 runtime-tree /tree /opt/agent /opt/operator \
 && find /tree -exec touch --no-dereference --date=@$SOURCE_DATE_EPOCH {} +

FROM scratch AS base
COPY --from=runtime /tree /
LABEL org.opencontainers.image.licenses="Apache-2.0"
ENV PATH=/opt/wesher/bin:/usr/local/bin:/usr/bin \
    LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1
# The agent's pod asks for root, since devices and /etc/hosts need it.
USER 65532:65532

FROM base AS operator
LABEL org.opencontainers.image.title="wesher-operator" \
      org.opencontainers.image.description="Operator of wesher, an encrypted WireGuard overlay for Kubernetes"
COPY --from=operator-libraries /opt/wesher /opt/wesher
COPY --from=operator-application /wesher /
ENTRYPOINT ["wesher-operator"]

FROM base AS agent
LABEL org.opencontainers.image.title="wesher" \
      org.opencontainers.image.description="Encrypted WireGuard overlay between Kubernetes nodes and machines outside them"
COPY --from=wireguard-go /wireguard-go /usr/local/bin/wireguard-go
COPY --from=agent-libraries /opt/wesher /opt/wesher
COPY --from=agent-application /wesher /
ENTRYPOINT ["wesher"]
