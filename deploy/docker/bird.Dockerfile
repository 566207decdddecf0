# A router to announce to, for `docker compose --profile bgp up`.
FROM docker.io/library/debian:bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends bird2 \
 && rm -rf /var/lib/apt/lists/*
COPY bird.conf /etc/bird/bird.conf
ENTRYPOINT ["bird", "-f", "-c", "/etc/bird/bird.conf"]
