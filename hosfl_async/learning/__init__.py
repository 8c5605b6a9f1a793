"""Numbers: the only room that imports torch.

To read it, begin with ``reference`` (the whole method on one page), then ``zeroth_order`` (the client half), ``first_order`` (the server
half) and ``perturbation`` (directions, bit for bit). ``learners`` answers the agents' jobs with the same numerics, over versions shared
in ``version_store``; ``build`` puts it all together from settings and a seed.
"""
