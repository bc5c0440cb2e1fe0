from . import data as data
from . import losses as losses
from . import methods as methods
from . import metrics as metrics
from . import models as models
from . import segmentation as segmentation
from . import targets as targets
from .attention.class_maps import cam as cam
from .attention.class_maps import grad_cam as grad_cam
from .attention.class_maps import grad_cam_pp as grad_cam_pp
from .attention.class_maps import layer_cam as layer_cam
from .attention.explain import explain as explain
from .attention.observe import Observation as Observation
from .attention.observe import observe as observe
from .errors import AttnBridgeError as AttnBridgeError
from .evaluation.audit.result import Audit as Audit
from .evaluation.figures import overlay as overlay
from .evaluation.figures import show as show
from .experiments.audit import audit as audit
from .experiments.fit import fit as fit
from .experiments.runs import Run as Run
from .experiments.runs import load_run as load_run
from .losses.guide import guide as guide

__version__: str
