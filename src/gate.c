/*-------------------------------------------------------------------------
 *
 * gate.c
 *	  The way into the extension for every public function.
 *
 * The gate looks up the function in the table below, becomes the extension's
 * owner, checks that the caller has the level on the connection that the call
 * is about, and calls the internal function of the same name by SPI. (It does
 * not forward the call itself: a set-returning SQL function may return row by
 * row, long after the identity was put back.)
 *
 * There is no SECURITY DEFINER: under it the true caller would be lost.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "executor/tstoreReceiver.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/tuplestore.h"

#include "connection.h"
#include "gate.h"
#include "mailchimp_sync.h"

PG_FUNCTION_INFO_V1(mc_gate);
PG_FUNCTION_INFO_V1(mc_gate_hidden);
PG_FUNCTION_INFO_V1(mc_gate_functions);

typedef struct McGateLine
{
	const char *name;
	McLevel level;
	McScope scope;
	int argument; /* that the scope is about, from 1 */
	McScope if_null;
} McGateLine;

/*
 * All public functions and the procedure. Whoever adds one adds its line; overloads
 * share one.
 */
static const McGateLine gate_lines[] = {
	/* connection */
	{"mc_connect", MC_ADMIN, MC_NEW_CONNECTION, 1},
	{"mc_check_connection", MC_MARKETER, MC_CONNECTION, 1},
	{"mc_refresh", MC_MARKETER, MC_CONNECTION, 1},
	{"mc_pull_campaigns", MC_MARKETER, MC_CONNECTION, 1},
	{"mc_alter_connection", MC_ADMIN, MC_CONNECTION, 1},
	{"mc_pause", MC_ADMIN, MC_CONNECTION, 1},
	{"mc_resume", MC_ADMIN, MC_CONNECTION, 1, MC_ALL},
	{"mc_disconnect", MC_ADMIN, MC_CONNECTION, 1},
	{"mc_grant", MC_ADMIN, MC_CONNECTION, 3, MC_ALL},
	{"mc_revoke", MC_ADMIN, MC_ALL},
	/* source */
	{"mc_add_source", MC_ADMIN, MC_ANY},
	{"mc_watch", MC_ADMIN, MC_ANY},
	{"mc_unwatch", MC_ADMIN, MC_ANY},
	{"mc_alter_source", MC_ADMIN, MC_ANY},
	{"mc_drop_source", MC_ADMIN, MC_ANY},
	/* audience */
	{"mc_create_audience", MC_ADMIN, MC_CONNECTION, 2},
	{"mc_alter_audience", MC_ADMIN, MC_AUDIENCE, 1},
	{"mc_drop_audience", MC_ADMIN, MC_AUDIENCE, 1},
	{"mc_add_audience_source", MC_ADMIN, MC_AUDIENCE, 1},
	{"mc_drop_audience_source", MC_ADMIN, MC_AUDIENCE, 1},
	{"mc_set_inbound", MC_ADMIN, MC_AUDIENCE, 1},
	{"mc_preview", MC_MARKETER, MC_AUDIENCE, 1},
	{"mc_sync_audience", MC_MARKETER, MC_AUDIENCE, 1},
	{"mc_sync_member", MC_MARKETER, MC_ANY},
	{"mc_pull", MC_MARKETER, MC_AUDIENCE, 1},
	{"mc_add_member", MC_MARKETER, MC_AUDIENCE, 1},
	{"mc_remove_member", MC_MARKETER, MC_AUDIENCE, 1},
	{"mc_release_member", MC_MARKETER, MC_AUDIENCE, 1},
	{"mc_approve", MC_ADMIN, MC_AUDIENCE, 1},
	{"mc_retry", MC_MARKETER, MC_AUDIENCE, 1, MC_ANY},
	/* opt-out */
	{"mc_opt_out", MC_MARKETER, MC_ANY},
	{"mc_opt_out_email", MC_MARKETER, MC_ANY},
	{"mc_opt_in", MC_MARKETER, MC_ANY},
	{"mc_opt_in_email", MC_MARKETER, MC_ANY},
	{"mc_is_opted_out", MC_READER, MC_ANY},
	{"mc_erase_contact", MC_ADMIN, MC_ANY},
	{"mc_export_contact", MC_ADMIN, MC_ANY},
	/* campaign */
	{"mc_create_campaign", MC_MARKETER, MC_AUDIENCE, 2},
	{"mc_alter_campaign", MC_MARKETER, MC_CAMPAIGN, 1},
	{"mc_copy_campaign", MC_MARKETER, MC_CAMPAIGN, 1},
	{"mc_add_recipients", MC_MARKETER, MC_CAMPAIGN, 1},
	{"mc_remove_recipients", MC_MARKETER, MC_CAMPAIGN, 1},
	{"mc_target_tags", MC_MARKETER, MC_CAMPAIGN, 1},
	{"mc_target_audience", MC_MARKETER, MC_CAMPAIGN, 1},
	{"mc_preview_campaign", MC_MARKETER, MC_CAMPAIGN, 1},
	{"mc_check_campaign", MC_MARKETER, MC_CAMPAIGN, 1},
	{"mc_prepare_campaign", MC_MARKETER, MC_CAMPAIGN, 1},
	{"mc_send_campaign", MC_MARKETER, MC_CAMPAIGN, 1},
	{"mc_schedule_campaign", MC_MARKETER, MC_CAMPAIGN, 1},
	{"mc_unschedule_campaign", MC_MARKETER, MC_CAMPAIGN, 1},
	{"mc_cancel_campaign", MC_MARKETER, MC_CAMPAIGN, 1},
	{"mc_delete_campaign", MC_MARKETER, MC_CAMPAIGN, 1},
	{"mc_test_campaign", MC_MARKETER, MC_CAMPAIGN, 1},
	{"mc_poll_campaign", MC_MARKETER, MC_CAMPAIGN, 1},
	/* results */
	{"mc_report_openers", MC_READER, MC_CAMPAIGN, 1},
	{"mc_report_clickers", MC_READER, MC_CAMPAIGN, 1},
	{"mc_report_links", MC_READER, MC_CAMPAIGN, 1},
	{"mc_report_bounces", MC_READER, MC_CAMPAIGN, 1},
	{"mc_report_html", MC_READER, MC_CAMPAIGN, 1},
	{"mc_reports_html", MC_READER, MC_ANY, 0},
	{"mc_poll_tiers", MC_READER, MC_ANY},
	{"mc_set_poll_tier", MC_ADMIN, MC_ANY},
	/* signals */
	{"mc_signals", MC_READER, MC_ANY},
	{"mc_set_signal", MC_READER, MC_ANY},
	/* webhooks */
	{"mc_register_webhook", MC_ADMIN, MC_AUDIENCE, 1},
	{"mc_receive_webhook", MC_WEBHOOK, MC_ANY},
	{"mc_webhook", MC_WEBHOOK, MC_ANY},
	/* operating */
	{"mc_run", MC_MARKETER, MC_ANY},
	{"mc_api", MC_ADMIN, MC_CONNECTION, 1},
	{"mc_start_worker", MC_ADMIN, MC_ANY},
	{"mc_stop_worker", MC_ADMIN, MC_ANY},
	{"mc_hand_over", MC_ADMIN, MC_ALL},
};

/*
 * What we know of a public function. It is kept for the life of the process: nobody changes
 * the arguments of a function that exists, and its plan looks after itself.
 */
typedef struct Function
{
	Oid oid;
	const McGateLine *line;
	int nargs;
	Oid declared[FUNC_MAX_ARGS];
	Oid types[FUNC_MAX_ARGS]; /* of the internal function */
	Oid result;
	bool returns_set;
	SPIPlanPtr plan;
} Function;

typedef struct Call
{
	FunctionCallInfo fcinfo;
	Function *function;
	ParamListInfo arguments;
	Tuplestorestate *rows;
	TupleDesc row_type;
	MemoryContext rows_context;
	Datum result;
	bool isnull;
} Call;

static const McGateLine *
find_line(const char *name)
{
	for (size_t i = 0; i < lengthof(gate_lines); i++)
		if (strcmp(gate_lines[i].name, name) == 0)
			return &gate_lines[i];
	elog(ERROR, "the gate has no line for function %s", name);
}

/* Keys come in any type; inside they are text. */
static Oid
internal_type(Oid declared)
{
	switch (declared)
	{
		case ANYELEMENTOID:
			return TEXTOID;
		case ANYARRAYOID:
			return TEXTARRAYOID;
		default:
			return declared;
	}
}

static void
describe_function(Function *function)
{
	HeapTuple tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function->oid));
	Form_pg_proc proc;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", function->oid);
	proc = (Form_pg_proc) GETSTRUCT(tuple);
	function->nargs = proc->pronargs;
	for (int i = 0; i < function->nargs; i++)
	{
		function->declared[i] = proc->proargtypes.values[i];
		function->types[i] = internal_type(function->declared[i]);
	}
	function->result = proc->prorettype;
	function->returns_set = proc->proretset;
	function->plan = NULL;
	function->line = find_line(NameStr(proc->proname));
	ReleaseSysCache(tuple);
}

static Function *
find_function(Oid oid)
{
	static HTAB *functions = NULL;
	Function described = {.oid = oid};
	Function *function;

	if (functions == NULL)
	{
		HASHCTL control = {.keysize = sizeof(Oid), .entrysize = sizeof(Function)};

		functions = hash_create("mailchimp_sync gate", 64, &control, HASH_ELEM | HASH_BLOBS);
	}
	function = hash_search(functions, &oid, HASH_FIND, NULL);
	if (function == NULL)
	{
		describe_function(&described);
		function = hash_search(functions, &oid, HASH_ENTER, NULL);
		*function = described;
	}
	return function;
}

static void
check_demand(void *demand)
{
	SPI_connect();
	mc_check_level(demand);
	SPI_finish();
}

/*
 * Expressions are read only, and that holds for what is at Mailchimp too: no
 * preview may send a campaign because a rule says so.
 */
static McDemand
make_demand(FunctionCallInfo fcinfo, const Function *function)
{
	const McGateLine *line = function->line;
	int i = line->argument - 1;
	McDemand demand = {"function", line->name, line->level, line->scope};
	Oid output;
	bool varlena;

	if (mc_is_evaluating())
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("an expression of a source cannot call %s", line->name)));
	if (i < 0)
		return demand;
	if (PG_ARGISNULL(i))
	{
		demand.scope = line->if_null;
		if (demand.scope == MC_NOTHING)
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("argument %d of function %s must not be null", i + 1, line->name)));
	}
	else
	{
		getTypeOutputInfo(function->declared[i], &output, &varlena);
		demand.object = OidOutputFunctionCall(output, PG_GETARG_DATUM(i));
	}
	return demand;
}

void
mc_gate_check(FunctionCallInfo fcinfo)
{
	McDemand demand = make_demand(fcinfo, find_function(fcinfo->flinfo->fn_oid));

	mc_as_owner(check_demand, &demand);
}

/*
 * The text of a value must not depend on the session, since keys are compared
 * as text. Undone by AtEOXact_GUC with the level that is returned.
 */
int
mc_pin_output(void)
{
	static const char *const settings[][2] = {
		{"datestyle", "ISO, MDY"}, {"intervalstyle", "postgres"}, {"extra_float_digits", "1"},
		{"bytea_output", "hex"},   {"timezone", "UTC"},			  {"lc_monetary", "C"},
	};
	int nest_level = NewGUCNestLevel();

	for (size_t i = 0; i < lengthof(settings); i++)
		(void) set_config_option(settings[i][0], settings[i][1], PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	return nest_level;
}

static Datum
element_to_text(Oid type, Datum value)
{
	Oid output;
	bool varlena;

	getTypeOutputInfo(type, &output, &varlena);
	return CStringGetTextDatum(OidOutputFunctionCall(output, value));
}

static Datum
array_to_texts(Oid type, Datum value)
{
	Oid element = get_base_element_type(type);
	ArrayType *array = DatumGetArrayTypeP(value);
	Datum *elements;
	bool *nulls;
	int n;
	int lower_bound = 1;
	int16 length;
	bool by_value;
	char align;

	get_typlenbyvalalign(element, &length, &by_value, &align);
	deconstruct_array(array, element, length, by_value, align, &elements, &nulls, &n);
	if (n == 0)
		return PointerGetDatum(construct_empty_array(TEXTOID));
	for (int i = 0; i < n; i++)
		if (!nulls[i])
			elements[i] = element_to_text(element, elements[i]);
	return PointerGetDatum(
		construct_md_array(elements, nulls, 1, &n, &lower_bound, TEXTOID, -1, false, TYPALIGN_INT));
}

/* As the caller: the output function of a type may be anybody's. */
static ParamListInfo
take_arguments(FunctionCallInfo fcinfo, const Function *function)
{
	ParamListInfo arguments = makeParamList(function->nargs);
	int nest_level = mc_pin_output();

	for (int i = 0; i < function->nargs; i++)
	{
		ParamExternData *argument = &arguments->params[i];

		argument->ptype = function->types[i];
		argument->pflags = PARAM_FLAG_CONST;
		argument->isnull = PG_ARGISNULL(i);
		argument->value = PG_GETARG_DATUM(i);
		if (argument->isnull || function->types[i] == function->declared[i])
			continue;
		if (function->declared[i] == ANYARRAYOID)
			argument->value =
				array_to_texts(get_fn_expr_argtype(fcinfo->flinfo, i), argument->value);
		else
			argument->value =
				element_to_text(get_fn_expr_argtype(fcinfo->flinfo, i), argument->value);
	}
	AtEOXact_GUC(true, nest_level);
	return arguments;
}

static SPIPlanPtr
prepare_call(const Function *function)
{
	StringInfoData query;
	SPIPlanPtr plan;

	initStringInfo(&query);
	appendStringInfo(&query, "SELECT * FROM %s.%s(", MC_SCHEMA,
					 quote_identifier(function->line->name));
	for (int i = 0; i < function->nargs; i++)
		appendStringInfo(&query, i == 0 ? "$%d" : ", $%d", i + 1);
	appendStringInfoChar(&query, ')');

	plan = SPI_prepare_cursor(query.data, function->nargs, (Oid *) function->types,
							  CURSOR_OPT_GENERIC_PLAN);
	if (plan == NULL || SPI_keepplan(plan) != 0)
		elog(ERROR, "%s: %s", SPI_result_code_string(SPI_result), query.data);
	return plan;
}

/* The one value that a function returns which is no set. */
static void
take_result(Call *call)
{
	Oid type = call->function->result;
	int16 length;
	bool by_value;

	call->isnull = true;
	if (type == VOIDOID || SPI_processed == 0)
		return;
	if (SPI_tuptable->tupdesc->natts != 1 || SPI_gettypeid(SPI_tuptable->tupdesc, 1) != type)
		elog(ERROR, "%s.%s does not return what %s does", MC_SCHEMA, call->function->line->name,
			 call->function->line->name);
	call->result = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &call->isnull);
	if (call->isnull)
		return;
	get_typlenbyval(type, &length, &by_value);
	call->result = SPI_datumTransfer(call->result, by_value, length);
}

static void
run_call(void *arg)
{
	Call *call = arg;
	Function *function = call->function;
	McDemand demand = make_demand(call->fcinfo, function);
	SPIExecuteOptions options = {.params = call->arguments};
	int result;

	SPI_connect();
	mc_check_level(&demand);
	if (function->plan == NULL)
		function->plan = prepare_call(function);
	if (function->returns_set)
	{
		options.dest = CreateDestReceiver(DestTuplestore);
		SetTuplestoreDestReceiverParams(options.dest, call->rows, call->rows_context, false,
										call->row_type,
										"the internal function returns other columns");
	}
	result = SPI_execute_plan_extended(function->plan, &options);
	if (result < 0)
		elog(ERROR, "%s: %s", SPI_result_code_string(result), function->line->name);
	if (!function->returns_set)
		take_result(call);
	SPI_finish();
}

/* All rows are made before the first is returned, while the identity is the owner's. */
static void
start_rows(FunctionCallInfo fcinfo, Call *call)
{
	ReturnSetInfo *set = (ReturnSetInfo *) fcinfo->resultinfo;
	MemoryContext old;

	if (set == NULL || !IsA(set, ReturnSetInfo) || !(set->allowedModes & SFRM_Materialize) ||
		set->expectedDesc == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("set-valued function called in a context that cannot accept a set")));

	call->rows_context = set->econtext->ecxt_per_query_memory;
	old = MemoryContextSwitchTo(call->rows_context);
	call->row_type = CreateTupleDescCopy(set->expectedDesc);
	call->rows =
		tuplestore_begin_heap((set->allowedModes & SFRM_Materialize_Random) != 0, false, work_mem);
	MemoryContextSwitchTo(old);
	set->returnMode = SFRM_Materialize;
	set->setResult = call->rows;
	set->setDesc = call->row_type;
}

Datum
mc_gate(PG_FUNCTION_ARGS)
{
	Call call = {.fcinfo = fcinfo, .function = find_function(fcinfo->flinfo->fn_oid)};

	call.arguments = take_arguments(fcinfo, call.function);
	if (call.function->returns_set)
		start_rows(fcinfo, &call);
	mc_as_owner(run_call, &call);
	fcinfo->isnull = call.isnull && call.function->result != VOIDOID;
	return call.result;
}

/* The same where the statement may have a secret in it, which no report shows then. */
Datum
mc_gate_hidden(PG_FUNCTION_ARGS)
{
	static char shown[NAMEDATALEN + 20];
	ErrorContextCallback hide = {.callback = mc_hide_statement, .previous = error_context_stack};
	Datum result;

	error_context_stack = &hide;
	snprintf(shown, sizeof(shown), "SELECT %s(...)",
			 find_function(fcinfo->flinfo->fn_oid)->line->name);
	mc_hide_activity(shown);
	result = mc_gate(fcinfo);
	error_context_stack = hide.previous;
	return result;
}

/* gate_function(): the table above, for mc_grant, the documentation and the tests */
Datum
mc_gate_functions(PG_FUNCTION_ARGS)
{
	static const char *const scopes[] = {
		[MC_ANY] = "any",
		[MC_ALL] = "all",
		[MC_CONNECTION] = "connection",
		[MC_NEW_CONNECTION] = "new connection",
		[MC_AUDIENCE] = "audience",
		[MC_CAMPAIGN] = "campaign",
	};
	Call call = {0};

	start_rows(fcinfo, &call);
	for (size_t i = 0; i < lengthof(gate_lines); i++)
	{
		const McGateLine *line = &gate_lines[i];
		bool nulls[] = {false, false, false, line->argument == 0, line->if_null == MC_NOTHING};
		Datum values[] = {
			CStringGetTextDatum(line->name),
			CStringGetTextDatum(mc_level_name(line->level)),
			CStringGetTextDatum(scopes[line->scope]),
			Int32GetDatum(line->argument),
			nulls[4] ? (Datum) 0 : CStringGetTextDatum(scopes[line->if_null]),
		};

		tuplestore_putvalues(call.rows, call.row_type, values, nulls);
	}
	return (Datum) 0;
}
