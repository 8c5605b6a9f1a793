"""An operator's certificate authority, and one kit of files for each device of a run.

``authority`` makes keys, certificates and the revocation list; ``access`` says who may speak and listen where; ``broker_files`` writes a
broker's settings from both; ``operator`` keeps an operator's folder and fills the kits.
"""

from hosfl_async.provisioning.operator import Operator

__all__ = ["Operator"]
