"""An agent of this package on real and guided data, without Hydra: the numbers are those of ``pgd train``.

::

    python examples/own_agent.py                      # about ten minutes on two cores
    python examples/own_agent.py --scale smoke
"""

import argparse

import pgd_lightning as pgd


def main(env: str, settings: dict[str, str], source: str | None = None) -> None:
    data = pgd.load(source or env, env=env if source else None, settings=settings)
    real = pgd.train_agent(data, agent="td3_bc", generator="none")
    guided = pgd.train_agent(data, agent="td3_bc", generator="pgd")
    for name, trained in (("real data", real), ("real and guided data", guided)):
        print(f"{name}: {trained.scores.mean():.1f} percent, by seed {trained.scores.mean(1).round(1).tolist()}")

    prior = pgd.train_prior(data)  # the one that the guided agent learned from
    for name, policy in (("unguided", None), ("guided", guided.policy)):
        windows = pgd.generate(prior, policy, windows=256)
        print(f"\n{name} windows\n{pgd.fidelity(windows, data, guided.policy if policy else None)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", default="hopper-medium")
    parser.add_argument("--source", help="a recording in D4RL's layout, if it is not found by the name of env")
    parser.add_argument("--scale", default="laptop")
    given = parser.parse_args()
    main(given.env, {"scale": given.scale}, given.source)
