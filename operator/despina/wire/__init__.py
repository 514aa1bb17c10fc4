"""The contract between the operator and the pods it runs: one document down, one report up.

The operator writes a `RuntimeConfig` into a ConfigMap that the pod mounts; `despina-runtime serve -f`
makes the same document itself. A container that gives up leaves a `Failure` as its termination message,
so that the operator learns the reason from the pod object, without a network path to the pod.
"""

from despina.wire.asking import (
    ASK_PATH as ASK_PATH,
)
from despina.wire.asking import (
    LONGEST_ANSWER as LONGEST_ANSWER,
)
from despina.wire.asking import (
    LONGEST_DEMO as LONGEST_DEMO,
)
from despina.wire.asking import (
    LONGEST_INSTRUCTIONS as LONGEST_INSTRUCTIONS,
)
from despina.wire.asking import (
    LONGEST_PROMPTS as LONGEST_PROMPTS,
)
from despina.wire.asking import (
    LONGEST_QUESTION as LONGEST_QUESTION,
)
from despina.wire.asking import (
    MOST_DEMOS as MOST_DEMOS,
)
from despina.wire.asking import (
    MOST_PROMPTS as MOST_PROMPTS,
)
from despina.wire.asking import (
    PROMPTS_PATH as PROMPTS_PATH,
)
from despina.wire.asking import (
    Answered as Answered,
)
from despina.wire.asking import (
    Prompt as Prompt,
)
from despina.wire.asking import (
    Prompts as Prompts,
)
from despina.wire.asking import (
    Question as Question,
)
from despina.wire.asking import (
    ask_seed as ask_seed,
)
from despina.wire.base import (
    MOST as MOST,
)
from despina.wire.base import (
    SECONDS_BOUNDS as SECONDS_BOUNDS,
)
from despina.wire.base import (
    Amount as Amount,
)
from despina.wire.base import (
    Count as Count,
)
from despina.wire.base import (
    Document as Document,
)
from despina.wire.base import (
    Histogram as Histogram,
)
from despina.wire.base import (
    Report as Report,
)
from despina.wire.base import (
    Score as Score,
)
from despina.wire.base import (
    added as added,
)
from despina.wire.config import (
    NEVER as NEVER,
)
from despina.wire.config import (
    BreakerConfig as BreakerConfig,
)
from despina.wire.config import (
    CacheConfig as CacheConfig,
)
from despina.wire.config import (
    ContractConfig as ContractConfig,
)
from despina.wire.config import (
    ErrorClass as ErrorClass,
)
from despina.wire.config import (
    FallbackConfig as FallbackConfig,
)
from despina.wire.config import (
    FeedbackConfig as FeedbackConfig,
)
from despina.wire.config import (
    LimitsConfig as LimitsConfig,
)
from despina.wire.config import (
    LMConfig as LMConfig,
)
from despina.wire.config import (
    ModelRef as ModelRef,
)
from despina.wire.config import (
    ModuleConfig as ModuleConfig,
)
from despina.wire.config import (
    Price as Price,
)
from despina.wire.config import (
    ProgramBreakerConfig as ProgramBreakerConfig,
)
from despina.wire.config import (
    RedisConfig as RedisConfig,
)
from despina.wire.config import (
    RuntimeConfig as RuntimeConfig,
)
from despina.wire.config import (
    ToolUse as ToolUse,
)
from despina.wire.config import (
    WarmUpConfig as WarmUpConfig,
)
from despina.wire.evaluation import (
    DatasetConfig as DatasetConfig,
)
from despina.wire.evaluation import (
    EvaluationConfig as EvaluationConfig,
)
from despina.wire.evaluation import (
    EvaluationResult as EvaluationResult,
)
from despina.wire.figures import (
    FIGURES_PATH as FIGURES_PATH,
)
from despina.wire.figures import (
    MOST_MODULES as MOST_MODULES,
)
from despina.wire.figures import (
    OTHER as OTHER,
)
from despina.wire.figures import (
    Exemplar as Exemplar,
)
from despina.wire.figures import (
    Figures as Figures,
)
from despina.wire.figures import (
    LMFigures as LMFigures,
)
from despina.wire.figures import (
    Timing as Timing,
)
from despina.wire.figures import (
    ToolFigures as ToolFigures,
)
from despina.wire.figures import (
    VersionFigures as VersionFigures,
)
from despina.wire.names import (
    ADMIN_PORT as ADMIN_PORT,
)
from despina.wire.names import (
    CACHE_DIR as CACHE_DIR,
)
from despina.wire.names import (
    CONFIG_DIR as CONFIG_DIR,
)
from despina.wire.names import (
    CONFIG_FILE as CONFIG_FILE,
)
from despina.wire.names import (
    DEADLINE_HEADER as DEADLINE_HEADER,
)
from despina.wire.names import (
    DEGRADED_HEADER as DEGRADED_HEADER,
)
from despina.wire.names import (
    DIGESTS_FILE as DIGESTS_FILE,
)
from despina.wire.names import (
    DRAINING_HEADER as DRAINING_HEADER,
)
from despina.wire.names import (
    ENV_PREFIX as ENV_PREFIX,
)
from despina.wire.names import (
    EVALUATION_ENV as EVALUATION_ENV,
)
from despina.wire.names import (
    EXECUTED_HEADER as EXECUTED_HEADER,
)
from despina.wire.names import (
    FALLBACK_HEADER as FALLBACK_HEADER,
)
from despina.wire.names import (
    GENERATION_DIR as GENERATION_DIR,
)
from despina.wire.names import (
    INTERFACE_PATH as INTERFACE_PATH,
)
from despina.wire.names import (
    LABELS_PATH as LABELS_PATH,
)
from despina.wire.names import (
    LONGEST_WAIT as LONGEST_WAIT,
)
from despina.wire.names import (
    MAX_ORDER_BYTES as MAX_ORDER_BYTES,
)
from despina.wire.names import (
    OPTIMIZATION_ENV as OPTIMIZATION_ENV,
)
from despina.wire.names import (
    ORDERS_PATH as ORDERS_PATH,
)
from despina.wire.names import (
    POD_IP_ENV as POD_IP_ENV,
)
from despina.wire.names import (
    POD_NAME_ENV as POD_NAME_ENV,
)
from despina.wire.names import (
    PROGRAM_PATH as PROGRAM_PATH,
)
from despina.wire.names import (
    PROGRESS_PATH as PROGRESS_PATH,
)
from despina.wire.names import (
    REDIS_SEAL as REDIS_SEAL,
)
from despina.wire.names import (
    SECRET_CHECK_ENV as SECRET_CHECK_ENV,
)
from despina.wire.names import (
    SECRETS_DIR as SECRETS_DIR,
)
from despina.wire.names import (
    SIGNATURE_HEADER as SIGNATURE_HEADER,
)
from despina.wire.names import (
    STATE_PATH as STATE_PATH,
)
from despina.wire.names import (
    TERMINATED as TERMINATED,
)
from despina.wire.names import (
    TERMINATION_LOG as TERMINATION_LOG,
)
from despina.wire.names import (
    TERMINATION_LOG_ENV as TERMINATION_LOG_ENV,
)
from despina.wire.names import (
    TOOL_HOST_ENV as TOOL_HOST_ENV,
)
from despina.wire.names import (
    TOOL_PACKAGES_ENV as TOOL_PACKAGES_ENV,
)
from despina.wire.names import (
    TOOL_TOKENS_DIR as TOOL_TOKENS_DIR,
)
from despina.wire.names import (
    TOOLS_DIR as TOOLS_DIR,
)
from despina.wire.names import (
    TOOLS_FILE as TOOLS_FILE,
)
from despina.wire.names import (
    TOOLS_FILE_ENV as TOOLS_FILE_ENV,
)
from despina.wire.names import (
    TOOLS_HEADER as TOOLS_HEADER,
)
from despina.wire.names import (
    TOOLS_PATH as TOOLS_PATH,
)
from despina.wire.names import (
    VERSION_HEADER as VERSION_HEADER,
)
from despina.wire.optimization import (
    TAKEN_BACK_TAG as TAKEN_BACK_TAG,
)
from despina.wire.optimization import (
    BudgetConfig as BudgetConfig,
)
from despina.wire.optimization import (
    Comparison as Comparison,
)
from despina.wire.optimization import (
    LabelsConfig as LabelsConfig,
)
from despina.wire.optimization import (
    OptimizationConfig as OptimizationConfig,
)
from despina.wire.optimization import (
    OptimizationReason as OptimizationReason,
)
from despina.wire.optimization import (
    OptimizationResult as OptimizationResult,
)
from despina.wire.optimization import (
    OptimizerConfig as OptimizerConfig,
)
from despina.wire.optimization import (
    PromotionConfig as PromotionConfig,
)
from despina.wire.orders import (
    Order as Order,
)
from despina.wire.orders import (
    OrderName as OrderName,
)
from despina.wire.orders import (
    ShadowConfig as ShadowConfig,
)
from despina.wire.orders import (
    TrialTools as TrialTools,
)
from despina.wire.reading import (
    may_read as may_read,
)
from despina.wire.reading import (
    program_key as program_key,
)
from despina.wire.reading import (
    reading as reading,
)
from despina.wire.state import (
    CERTAIN as CERTAIN,
)
from despina.wire.state import (
    BreakerReport as BreakerReport,
)
from despina.wire.state import (
    Counts as Counts,
)
from despina.wire.state import (
    Failure as Failure,
)
from despina.wire.state import (
    FailureReason as FailureReason,
)
from despina.wire.state import (
    FeedbackReport as FeedbackReport,
)
from despina.wire.state import (
    HeldRevision as HeldRevision,
)
from despina.wire.state import (
    OptimizeRequest as OptimizeRequest,
)
from despina.wire.state import (
    OrdersReport as OrdersReport,
)
from despina.wire.state import (
    PodState as PodState,
)
from despina.wire.state import (
    ShadowReport as ShadowReport,
)
from despina.wire.state import (
    TryReport as TryReport,
)
from despina.wire.tools import (
    HostReport as HostReport,
)
from despina.wire.tools import (
    OfferedTool as OfferedTool,
)
from despina.wire.tools import (
    RetryOn as RetryOn,
)
from despina.wire.tools import (
    RoutingPolicy as RoutingPolicy,
)
from despina.wire.tools import (
    ToolBackend as ToolBackend,
)
from despina.wire.tools import (
    ToolBreakerConfig as ToolBreakerConfig,
)
from despina.wire.tools import (
    ToolConfig as ToolConfig,
)
from despina.wire.tools import (
    ToolHostConfig as ToolHostConfig,
)
from despina.wire.tools import (
    ToolProblemReport as ToolProblemReport,
)
from despina.wire.tools import (
    ToolsConfig as ToolsConfig,
)
from despina.wire.traces import (
    TRACE_HEADER as TRACE_HEADER,
)
from despina.wire.traces import (
    TRACES_PATH as TRACES_PATH,
)
from despina.wire.traces import (
    Trace as Trace,
)
from despina.wire.traces import (
    TraceList as TraceList,
)
from despina.wire.traces import (
    TraceSpan as TraceSpan,
)
from despina.wire.traces import (
    TraceSummary as TraceSummary,
)
