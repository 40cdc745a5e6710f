# One image for agent and operator, the same recipe for amd64 and arm64.
# A release pins both base images by digest, through these arguments.
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

FROM ${PYTHON_IMAGE} AS libraries
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_QUIET=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
RUN python3 -m venv --without-pip /opt/wesher && python3 -m venv --without-pip /backend
COPY requirements.lock requirements-build.lock ./
RUN pip3 --python /opt/wesher/bin/python install --no-compile --require-hashes --only-binary :all: -r requirements.lock \
 && pip3 --python /backend/bin/python install --no-compile --require-hashes --only-binary :all: -r requirements-build.lock
# A read-only root keeps no bytecode, so it is made here; checked by nothing, it is the same in every build.
# The Kubernetes client loads its generated modules one by one when asked: theirs would double the image.
RUN /opt/wesher/bin/python -m compileall -q --invalidation-mode unchecked-hash \
    -x '/kubernetes/(aio/)?client/(api|models)/' /opt/wesher/lib
ARG SOURCE_DATE_EPOCH=1767225600
RUN find /opt/wesher -exec touch --no-dereference --date=@$SOURCE_DATE_EPOCH {} +

FROM libraries AS application
COPY pyproject.toml README.md LICENSE ./
COPY common common
COPY agent agent
COPY operator operator
ARG SOURCE_DATE_EPOCH=1767225600
# Only what is wesher's own goes on: an upgrade then pulls one small layer.
RUN /backend/bin/python -m hatchling build --target wheel --directory /wheel \
 && pip3 --python /opt/wesher/bin/python install --no-compile --no-deps --no-index /wheel/wesher-*.whl \
 && /opt/wesher/bin/python -m compileall -q --invalidation-mode unchecked-hash \
    /opt/wesher/lib/python3.*/site-packages/wesher_* \
 && mkdir /wesher && cd / \
 && cp --archive --parents opt/wesher/bin/*wesher* opt/wesher/lib/python3.*/site-packages/wesher* /wesher \
 && find /wesher -exec touch --no-dereference --date=@$SOURCE_DATE_EPOCH {} +

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="wesher" \
      org.opencontainers.image.description="Encrypted WireGuard overlay between Kubernetes nodes and machines outside them" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=wireguard-go /wireguard-go /usr/local/bin/wireguard-go
COPY --from=libraries /opt/wesher /opt/wesher
COPY --from=application /wesher /
ENV PATH=/opt/wesher/bin:/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin \
    PYTHONDONTWRITEBYTECODE=1
# The operator runs as this user; the agent's pod asks for root, since devices and /etc/hosts need it.
USER 65532:65532
ENTRYPOINT ["wesher"]
