"""Which of the worker's environment variables its jobs get: those of a list, and no others.

A worker's environment holds what is nobody's business but its own: the password of Redis, the keys
of the object store, and whatever else its machine was given. So a job gets what programs need to
find their libraries, their devices and the network, and what `SPECTRAIN_JOB_ENV` names.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

from monitoring.runs.secret_names import is_secret_variable

# By what needs them. `docs/settings.md` has the same list.
PATTERNS: Mapping[str, tuple[str, ...]] = {
    "the system": (
        "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "LC_*", "TZ", "TERM",
        "HOSTNAME", "TMPDIR", "TMP", "TEMP", "XDG_*",
    ),
    "the network": (
        "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "FTP_PROXY", "NO_PROXY", "http_proxy",
        "https_proxy", "all_proxy", "ftp_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR",
        "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_*",
    ),
    "Python and installations": (
        "PYTHON*", "PIP_*", "UV_*", "VIRTUAL_ENV", "CONDA_*", "MAMBA_*",
    ),
    "compilers": (
        "CC", "CXX", "CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS", "CPATH", "LIBRARY_PATH", "LD_*",
        "PKG_CONFIG_PATH", "CMAKE_*", "MAX_JOBS", "JAVA_HOME",
    ),
    "devices": (
        "CUDA_*", "NVIDIA_*", "CUBLAS_*", "CUDNN_*", "NCCL_*", "NVSHMEM_*", "ROCM_*", "HIP_*",
        "HSA_*", "ROCR_*", "RCCL_*", "MIOPEN_*", "GPU_*", "TPU_*", "XPU_*", "ONEAPI_*", "SYCL_*",
    ),
    "numerical libraries": (
        "OMP_*", "GOMP_*", "KMP_*", "MKL_*", "OPENBLAS_*", "GOTO_*", "BLIS_*", "DNNL_*",
        "ONEDNN_*", "NUMEXPR_*", "VECLIB_*", "NPY_*", "NUMPY_*", "MALLOC_*", "GLIBC_*",
    ),
    "frameworks": (
        "TORCH*", "PYTORCH_*", "ATEN_*", "TRITON_*", "JAX_*", "XLA_*", "TF_*", "HF_*",
        "TRANSFORMERS_*", "TOKENIZERS_*", "MPL*", "MATPLOTLIB*",
    ),
    "clusters": ("GLOO_*", "UCX_*", "FI_*", "OMPI_*", "SLURM_*"),
}  # fmt: skip


def inherited(environment: Mapping[str, str], more: str = "") -> dict[str, str]:
    """The variables that a job gets.

    `more`: names or shell patterns such as `WANDB_*`, separated by commas. What looks like a secret
    by its name, such as `HF_TOKEN`, is left out unless `more` has exactly its name.
    """
    asked = {pattern.strip() for pattern in more.split(",") if pattern.strip()}
    patterns = {pattern for some in PATTERNS.values() for pattern in some} | asked
    return {
        name: value
        for name, value in environment.items()
        if name in asked
        or (
            not is_secret_variable(name) and any(fnmatchcase(name, pattern) for pattern in patterns)
        )
    }
