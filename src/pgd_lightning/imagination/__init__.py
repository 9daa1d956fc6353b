"""PolyGRAD's learning side: actor-critic, learner, collector, buffer."""
