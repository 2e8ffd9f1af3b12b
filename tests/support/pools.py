"""What tests of the traffic policies share: endpoints without chance, and what their servers say."""

from parallamr_mp.models import Failure
from parallamr_mp.policy.adaptive import FixedLimit
from parallamr_mp.policy.breaker import CircuitBreaker
from parallamr_mp.policy.endpoint import Endpoint
from parallamr_mp.policy.job import Job, Report
from parallamr_mp.policy.pool import Pool
from parallamr_mp.policy.quota import Limits

BUSY = Failure("rate_limit", "busy", retryable=True, refused=True, status=429)
DEAD = Failure("connection", "nobody is there", retryable=True, unreached=True)
BROKEN = Failure("server_error", "it broke", retryable=True, status=500)
GATEWAY = Failure("server_error", "no server behind the proxy", retryable=True, status=503)
WRONG = Failure("bad_request", "no such model", status=400)
LOST = Failure("timeout", "no answer", unknown=True)


def later(seconds, *, one_model=False):
    """A refusal that says when to come back."""
    return Failure(
        "rate_limit",
        "busy",
        retryable=True,
        refused=True,
        retry_after=seconds,
        status=429,
        one_model=one_model,
    )


def middle(low, high):
    """Instead of chance."""
    return (low + high) / 2


def job(number=0, key="a", model="m", **more):
    return Job(number, key, None, model=model, **more)


def endpoint(url="http://a", *, limit=None, limits=None, failures=5, weight=1.0, ceiling=1 << 20):
    return Endpoint(
        url,
        url,
        limit=limit or FixedLimit(ceiling),
        breaker=CircuitBreaker(failures, uniform=middle),
        limits=limits or Limits(),
        weight=weight,
        uniform=middle,
    )


def pool(*urls, **options):
    return Pool([endpoint(url, **options) for url in urls])


def lease(made, now, work=None, tokens=1):
    """Leases a job from an endpoint. → what `end` wants."""
    work = work or job()
    assert made.wait(now, work, tokens) == 0.0
    work.route = made.url
    work.grant = made.lease(now, work, tokens)
    return work


def end(work, now, failure=None, *, allowance=None, died=False):
    """The lease comes back to its endpoint."""
    grant, work.grant = work.grant, None
    report = None if died else Report(now - grant.at, failure, allowance=allowance)
    grant.endpoint.release(now, work, grant, grant.at, grant.tokens, report)
