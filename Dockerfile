# SPDX-License-Identifier: BSD-2-Clause
# The gateway's image (docs/deploying.md): docker build --tag patchbay .
# It runs as user 10001 and needs to write to /var/lib/patchbay alone, where the store's file is.

ARG PYTHON_VERSION=3.13

# This one has a compiler. `required`: the build fails if the part in C cannot be built.
FROM python:${PYTHON_VERSION} AS build
ARG EXTRAS=redis,dns,kubernetes
# An index of your own: --build-arg PIP_INDEX_URL=…
ARG PIP_INDEX_URL
ENV PATCHBAY_ACCELERATOR=required \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY . .
# Compiled without the files' times, which layers of an image round: else Python would compile at every start.
RUN python3 -m venv /opt/patchbay \
    && /opt/patchbay/bin/python -m pip install --no-compile --constraint requirements.lock ".[${EXTRAS}]" \
    && /opt/patchbay/bin/python -m pip uninstall --yes pip setuptools \
    && /opt/patchbay/bin/python -m compileall -q -f --invalidation-mode unchecked-hash /opt/patchbay/lib \
    && install -d -o 10001 -g 10001 /out/var/lib/patchbay

FROM python:${PYTHON_VERSION}-slim
LABEL org.opencontainers.image.title="Patchbay" \
      org.opencontainers.image.description="The self-hosted telephony edge for voice agents" \
      org.opencontainers.image.licenses="BSD-2-Clause"
COPY --from=build /opt/patchbay /opt/patchbay
COPY --from=build /out /

# In a container nobody reaches 127.0.0.1: the port is on every address, whatever the file says.
ENV HOME=/var/lib/patchbay \
    PATCHBAY_SERVER__HOST=0.0.0.0 \
    PATH=/opt/patchbay/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /var/lib/patchbay
VOLUME /var/lib/patchbay
USER 10001:10001
EXPOSE 7860 7861

# SIGTERM drains: give the container `drain_timeout` and a minute before it is killed.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=4 CMD ["patchbay", "health"]
ENTRYPOINT ["patchbay"]
CMD ["serve", "--config", "/etc/patchbay/patchbay.toml"]
