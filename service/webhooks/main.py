"""`python -m service.webhooks.main`: one delivery process. Any number of them may run."""

import asyncio
import logging
import signal

from prometheus_client import start_http_server
from pydantic import ValidationError
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff

from contract.exits import give_up
from contract.health import HealthServer
from contract.listening import CannotListen, check_listening
from contract.logs import set_up_logs
from contract.wording import settings_wording
from service.api_keys import NoPepper, Pepper
from service.webhooks.connecting import SystemResolver
from service.webhooks.deliverer import Deliverer
from service.webhooks.metrics import DeliveryMetrics
from service.webhooks.outbox import Outbox
from service.webhooks.sending import Sender
from service.webhooks.settings import Settings


def main() -> None:
    """Deliver until told to stop. Ends with a message and EX_CONFIG where the settings do not allow it."""
    try:
        settings = Settings()
        check(settings)
    except ValidationError as error:
        give_up(f"the settings cannot be used: {settings_wording(error)}")
    except CannotListen as error:
        give_up(str(error))
    except NoPepper as error:
        give_up(f"SEEMLY_PEPPER: {error}")
    set_up_logs(settings.log_level, settings.log_format)
    logging.getLogger("httpcore").setLevel(logging.WARNING)  # it would log addresses, which may hold receivers' secrets
    metrics = DeliveryMetrics()
    if settings.webhook_metrics_port:
        start_http_server(settings.webhook_metrics_port, settings.webhook_metrics_host, registry=metrics.registry)
    with HealthServer(settings.webhook_health_port, settings.webhook_health_host) as health:
        asyncio.run(deliver(settings, metrics, health))


def check(settings: Settings) -> None:
    """Try what a setting names as far as that can be done at the start.

    Raises:
        CannotListen
        NoPepper: the one that is given is too short.
    """
    if settings.pepper is not None:
        Pepper.read(settings.pepper.get_secret_value(), settings.pepper_path)
    if settings.webhook_metrics_port:
        check_listening("SEEMLY_WEBHOOK_METRICS", settings.webhook_metrics_host, settings.webhook_metrics_port)
    if settings.webhook_health_port:
        check_listening("SEEMLY_WEBHOOK_HEALTH", settings.webhook_health_host, settings.webhook_health_port)


async def deliver(settings: Settings, metrics: DeliveryMetrics, health: HealthServer) -> None:
    """Run until SIGTERM or SIGINT; what has been taken by then is sent first."""
    leaving = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, leaving.set)
    redis = Redis.from_url(
        settings.redis_url,
        decode_responses=True,
        socket_timeout=5,
        socket_connect_timeout=2,
        retry=Retry(ExponentialWithJitterBackoff(base=0.05, cap=1), 10),
        protocol=2,
    )
    resolver = SystemResolver(settings.webhook_slots)
    sender = Sender(resolver, settings.webhook_networks, settings.webhook_timeout_s)
    try:
        health.observed = deliverer = Deliverer(settings, Outbox(redis), sender, metrics)
        await deliverer.run(leaving)
    finally:
        resolver.close()
        await redis.aclose()


if __name__ == "__main__":
    main()
