FROM python:3.13-slim AS build
# Only the kernel needs the compiler. It stays in this stage.
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev
WORKDIR /source
COPY pyproject.toml setup.py README.md LICENSE ./
COPY proxy proxy
RUN pip install --no-cache-dir --prefix=/installed . && \
    ls /installed/lib/python*/site-packages/proxy/gguf/_kernel.abi3.so

FROM python:3.13-slim
COPY --from=build /installed /usr/local
RUN useradd --uid 10001 --create-home --home-dir /state proxy
USER 10001
ENV XDG_STATE_HOME=/state OLLAMA_HF_PROXY_SERVER_LISTEN=0.0.0.0:11435
VOLUME /state
EXPOSE 11435
HEALTHCHECK --interval=30s --timeout=10s --start-period=10s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:11435/-/health', timeout=8)"]
# Docker stops the proxy with SIGTERM. The proxy then ends within five seconds, and sends a last line to every client.
ENTRYPOINT ["ollama-hf-proxy"]
CMD ["serve"]
