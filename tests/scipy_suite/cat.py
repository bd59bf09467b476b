import importlib
from thalweg.algorithms import ALGORITHMS, Algorithm
for module, names in {"bfgs":["bfgs"],"lbfgs":["lbfgs"],"lbfgsb":["lbfgsb"],"newton_cg":["newton_cg"],"levenberg_marquardt":["levenberg_marquardt"],"trust_newton":["trust_ncg","trust_krylov","trust_exact","dogleg"],"conjugate_gradients":["hager_zhang_cg"], "hager_zhang_cg":["hager_zhang_cg"]}.items():
    try: m=importlib.import_module("thalweg.second_order."+module)
    except ModuleNotFoundError: continue
    for n in names:
        if n not in ALGORITHMS and hasattr(m,n): ALGORITHMS[n]=Algorithm(n, getattr(m,n), "8.6", "")
