/*-------------------------------------------------------------------------
 *
 * source.c
 *	  Reading the expressions that describe a source, when they are given.
 *
 * An expression comes as text from somebody who may be anybody, and will be
 * put into queries that run later, elsewhere, as the source's owner. So the
 * text itself is never kept for that: it is parsed as exactly one expression,
 * analysed as the owner with the search_path of who gave it, and deparsed with
 * every name qualified. What is left over of comments, second statements,
 * aliases or unbalanced parentheses cannot survive that. At last the result is run
 * for no row, as the owner, so that missing rights show up now.
 *
 * All that happens in a security-restricted operation: planning may call
 * functions of the owner's choice.
 *
 * The columns of the relation that an expression reads are found in the analysed
 * tree; the triggers compare and store those.
 *
 * "Label" is what an error calls the expression: merge field "FNAME" of source
 * "candidate".
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/table.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "parser/analyze.h"
#include "parser/parse_coerce.h"
#include "parser/parse_collate.h"
#include "parser/parse_expr.h"
#include "parser/parse_relation.h"
#include "parser/parser.h"
#include "parser/parsetree.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"
#include "utils/typcache.h"

#include "compat.h"
#include "mailchimp_sync.h"

/* The name by which a watch reads the rows that changed */
#define CHANGED "changed"

/*
 * Names mean what is in pg_catalog when a stored expression runs, also where the
 * session has temporary objects of such names.
 */
#define STORED_SEARCH_PATH "pg_catalog, pg_temp"

/* What is read, as whom, and what comes of it */
typedef struct Analysis
{
	Oid role;
	Oid relation;
	const char *text;
	const char *label;
	const char *alias; /* of an expression */
	const char *what;  /* ... which has to be key, email, field, tags or boolean */
	Oid key_type;	   /* of a watch: what its query returns */

	char *stored; /* the text to keep */
	char *bare;	  /* a key without the alias, as an index shows it */
	Oid type;
	List *columns; /* names, as String nodes */
} Analysis;

PG_FUNCTION_INFO_V1(mc_analyse);
PG_FUNCTION_INFO_V1(mc_analyse_keys);
PG_FUNCTION_INFO_V1(mc_check_query);

/* ---- errors that say which expression they are about ---- */

/* An error that points at a place in the text shows that text, not the call's */
static void
show_text(void *arg)
{
	int position = geterrposition();

	if (position > 0)
	{
		errposition(0);
		internalerrposition(position);
		internalerrquery(((Analysis *) arg)->text);
	}
}

/* Runs fn and puts the label before the message of what it raises */
static void
with_label(void (*fn)(Analysis *analysis), Analysis *analysis)
{
	MemoryContext context = CurrentMemoryContext;
	ErrorContextCallback callback = {error_context_stack, show_text, analysis};

	PG_TRY();
	{
		error_context_stack = &callback;
		fn(analysis);
		error_context_stack = callback.previous;
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		error->message = psprintf("%s: %s", analysis->label, error->message);
		ReThrowError(error);
	}
	PG_END_TRY();
}

/* ---- surroundings ---- */

static void
set_search_path(const char *search_path)
{
	(void) set_config_option("search_path", search_path, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

/*
 * From here on as it will be when the stored text runs: names and constants are
 * written for that. Undone with the settings of run_as_role().
 */
static void
enter_stored_surroundings(void)
{
	(void) mc_pin_output();
	set_search_path(STORED_SEARCH_PATH);
}

/* What temporary objects mean ends with the session; what is stored does not */
static void
refuse_temporary(Oid relation)
{
	if (get_rel_persistence(relation) == RELPERSISTENCE_TEMP)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("\"%s\" is a temporary relation", get_rel_name(relation)),
						errdetail("What reads it runs in other sessions too.")));
}

static char *
qualified_name(Oid relation)
{
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relation)),
									  get_rel_name(relation));
}

/* Runs a query for no row: the executor checks all rights before the first one */
static void
run_for_no_row(const char *query)
{
	Oid type = TEXTARRAYOID;
	Datum none = PointerGetDatum(construct_empty_array(TEXTOID));

	SPI_connect();
	SPI_execute_with_args(psprintf("SELECT * FROM (%s) AS q LIMIT 0", query), 1, &type, &none, NULL,
						  true, 0);
	SPI_finish();
}

/* ---- which columns are read ---- */

typedef struct ColumnWalk
{
	List *rtables; /* of the query where the walk is, before those around it */
	bool
		is_query; /* the root is a whole query, which reads CHANGED; else the relation is its only entry */
	List *names;   /* of the columns, whatever aliases they have */
	List *columns; /* those that are read */
} ColumnWalk;

static bool walk_columns(Node *node, void *context);

/* Is this entry, found level queries above the innermost, the one whose columns we look for? */
static bool
is_wanted(const ColumnWalk *walk, const RangeTblEntry *rte, int level)
{
	int levels_to_root = list_length(walk->rtables) - 1 - level;

	if (!walk->is_query)
		return levels_to_root == 0 && rte->rtekind == RTE_RELATION;
	return rte->rtekind == RTE_CTE && strcmp(rte->ctename, CHANGED) == 0 &&
		   (int) rte->ctelevelsup == levels_to_root;
}

static void
add_column(ColumnWalk *walk, AttrNumber attnum)
{
	ListCell *cell;

	if (attnum > 0)
		walk->columns = list_append_unique(walk->columns, list_nth(walk->names, attnum - 1));
	else if (attnum == InvalidAttrNumber)
	{
		/* the whole row; the name of a dropped column is empty */
		foreach(cell, walk->names)
			if (strVal(lfirst(cell))[0] != '\0')
				walk->columns = list_append_unique(walk->columns, lfirst(cell));
	}
}

/* A column of a join stands for one or, merged by USING, two columns below it */
static void
walk_join_column(ColumnWalk *walk, const RangeTblEntry *join, const Var *var)
{
	List *rtables = walk->rtables;

	walk->rtables = list_copy_tail(rtables, var->varlevelsup);
	if (var->varattno > 0)
		walk_columns(list_nth(join->joinaliasvars, var->varattno - 1), walk);
	else
		walk_columns((Node *) join->joinaliasvars, walk);
	walk->rtables = rtables;
}

static bool
walk_columns(Node *node, void *context)
{
	ColumnWalk *walk = context;

	if (node == NULL)
		return false;
	if (IsA(node, Var))
	{
		Var *var = (Var *) node;
		RangeTblEntry *rte =
			rt_fetch(var->varno, (List *) list_nth(walk->rtables, var->varlevelsup));

		if (rte->rtekind == RTE_JOIN)
			walk_join_column(walk, rte, var);
		else if (is_wanted(walk, rte, var->varlevelsup))
			add_column(walk, var->varattno);
		return false;
	}
	if (IsA(node, RangeTblEntry))
	{
		if (((RangeTblEntry *) node)->rtekind == RTE_RELATION)
			refuse_temporary(((RangeTblEntry *) node)->relid);
		return false;
	}
	if (IsA(node, Query))
	{
		Query *query = (Query *) node;
		List *rtables = walk->rtables;

		walk->rtables = lcons(query->rtable, list_copy(rtables));
		query_tree_walker(query, walk_columns, walk,
						  QTW_IGNORE_JOINALIASES | QTW_EXAMINE_RTES_BEFORE);
		walk->rtables = rtables;
		return false;
	}
	return expression_tree_walker(node, walk_columns, walk);
}

/* ---- one expression ---- */

static bool
is_star(const Node *node)
{
	return IsA(node, ColumnRef) && IsA(llast(((const ColumnRef *) node)->fields), A_Star);
}

/* Is it nothing but one value? */
static bool
is_expression(const SelectStmt *select)
{
	const ResTarget *target;

	if (list_length(select->targetList) != 1)
		return false;
	target = linitial_node(ResTarget, select->targetList);
	return target->name == NULL && !is_star(target->val) && !select->distinctClause &&
		   !select->fromClause && !select->whereClause && !select->groupClause &&
		   !select->havingClause && !select->windowClause && !select->sortClause &&
		   !select->limitOffset && !select->limitCount && !select->lockingClause;
}

/* As PL/pgSQL reads one: the part of a SELECT after that word */
static Node *
parse_expression(const char *text)
{
	List *trees = raw_parser(text, RAW_PARSE_PLPGSQL_EXPR);
	SelectStmt *select = castNode(SelectStmt, linitial_node(RawStmt, trees)->stmt);

	if (!is_expression(select))
		ereport(ERROR, (errcode(ERRCODE_SYNTAX_ERROR), errmsg("must be one SQL expression"),
						errhint("A query in parentheses is an expression too.")));
	return linitial_node(ResTarget, select->targetList)->val;
}

static Node *
coerce(ParseState *pstate, Node *expr, Oid type, CoercionContext context)
{
	Node *coerced = coerce_to_target_type(pstate, expr, exprType(expr), type, -1, context,
										  COERCE_EXPLICIT_CAST, -1);

	if (coerced == NULL)
		ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH),
						errmsg("must be of type %s, not %s", format_type_be(type),
							   format_type_be(exprType(expr))),
						parser_errposition(pstate, exprLocation(expr))));
	return coerced;
}

static void
refuse_system_column(ParseState *pstate, Node *expr)
{
	if (IsA(expr, Var) && ((Var *) expr)->varattno < 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED), errmsg("a system column cannot be a key"),
				 parser_errposition(pstate, exprLocation(expr))));
}

/* Keys are compared, sorted, and written as text and back */
static Oid
key_type_of(ParseState *pstate, Node *expr)
{
	Oid type = getBaseType(exprType(expr));

	if (get_typtype(type) == TYPTYPE_PSEUDO ||
		!OidIsValid(lookup_type_cache(type, TYPECACHE_LT_OPR)->lt_opr))
		ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH),
						errmsg("type %s cannot be a key", format_type_be(type)),
						errhint("A key has an order and can be written as text and read back."),
						parser_errposition(pstate, exprLocation(expr))));
	return type;
}

/* Numbers stay numbers and JSON stays JSON; anything else is a string in Mailchimp's eyes */
static bool
is_json_ready(Oid type)
{
	switch (getBaseType(type))
	{
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case FLOAT4OID:
		case FLOAT8OID:
		case NUMERICOID:
		case JSONOID:
		case JSONBOID:
			return true;
		default:
			return false;
	}
}

static Node *
coerce_to_purpose(ParseState *pstate, Node *expr, const char *what)
{
	if (exprType(expr) == UNKNOWNOID && strcmp(what, "tags") != 0 && strcmp(what, "boolean") != 0)
		return coerce(pstate, expr, TEXTOID, COERCION_IMPLICIT);
	if (strcmp(what, "key") == 0)
	{
		refuse_system_column(pstate, expr);
		return expr;
	}
	if (strcmp(what, "email") == 0)
		return coerce(pstate, expr, TEXTOID, COERCION_EXPLICIT);
	if (strcmp(what, "field") == 0)
		return is_json_ready(exprType(expr)) ? expr
											 : coerce(pstate, expr, TEXTOID, COERCION_EXPLICIT);
	if (strcmp(what, "tags") == 0)
		return coerce(pstate, expr, TEXTARRAYOID, COERCION_ASSIGNMENT);
	if (strcmp(what, "boolean") == 0)
		return coerce(pstate, expr, BOOLOID, COERCION_ASSIGNMENT);
	elog(ERROR, "there is no such purpose of an expression: %s", what);
}

/* Nothing at all is "" to Mailchimp (it clears the field) and false to us */
static char *
wrap(const char *expr, const char *what)
{
	if (strcmp(what, "field") == 0)
		return psprintf("COALESCE(to_jsonb(%s), '\"\"'::jsonb)", expr);
	if (strcmp(what, "boolean") == 0)
		return psprintf("COALESCE(%s, false)", expr);
	return pstrdup(expr);
}

static void
analyse_expression(Analysis *analysis)
{
	Node *raw = parse_expression(analysis->text);
	Relation relation = relation_open(analysis->relation, AccessShareLock);
	ParseState *pstate = make_parsestate(NULL);
	ParseNamespaceItem *item;
	List *context;
	ColumnWalk walk = {0};
	Node *expr;

	refuse_temporary(analysis->relation);
	pstate->p_sourcetext = analysis->text;
	item = addRangeTableEntryForRelation(pstate, relation, AccessShareLock,
										 makeAlias(analysis->alias, NIL), true, true);
	addNSItemToQuery(pstate, item, false, true, true);

	/* as in a WHERE: queries are allowed, aggregates, window and set-returning functions are not */
	expr = transformExpr(pstate, raw, EXPR_KIND_WHERE);
	expr = coerce_to_purpose(pstate, expr, analysis->what);
	assign_expr_collations(pstate, expr);
	analysis->type =
		strcmp(analysis->what, "key") == 0 ? key_type_of(pstate, expr) : exprType(expr);

	walk.rtables = list_make1(pstate->p_rtable);
	walk.names = rt_fetch(1, pstate->p_rtable)->eref->colnames;
	walk_columns(expr, &walk);
	analysis->columns = walk.columns;

	enter_stored_surroundings();
	context = deparse_context_for(analysis->alias, analysis->relation);
	analysis->bare = deparse_expression(expr, context, false, false);
	analysis->stored = wrap(deparse_expression(expr, context, true, false), analysis->what);
	run_for_no_row(psprintf("SELECT %s FROM %s AS %s", analysis->stored,
							qualified_name(analysis->relation), quote_identifier(analysis->alias)));

	free_parsestate(pstate);
	relation_close(relation, NoLock);
}

/* ---- the query of a watch ---- */

/*
 * While it is analysed, CHANGED is the watched relation; when it runs, the rows
 * of events under the same name, which compose_keys_query() puts before it.
 */
static SelectStmt *
parse_keys(const Analysis *analysis)
{
	List *trees = raw_parser(analysis->text, RAW_PARSE_DEFAULT);
	char *body = psprintf("SELECT * FROM %s", qualified_name(analysis->relation));
	CommonTableExpr *changed = makeNode(CommonTableExpr);
	SelectStmt *select;

	if (list_length(trees) != 1 || !IsA(linitial_node(RawStmt, trees)->stmt, SelectStmt))
		ereport(ERROR, (errcode(ERRCODE_SYNTAX_ERROR), errmsg("must be one SELECT")));
	select = (SelectStmt *) linitial_node(RawStmt, trees)->stmt;
	changed->ctename = pstrdup(CHANGED);
	changed->ctequery = linitial_node(RawStmt, raw_parser(body, RAW_PARSE_DEFAULT))->stmt;
	changed->location = -1;
	if (select->withClause == NULL)
	{
		select->withClause = makeNode(WithClause);
		select->withClause->location = -1;
	}
	select->withClause->ctes = lcons(changed, select->withClause->ctes);
	return select;
}

static void
check_keys(ParseState *pstate, Query *query, Oid key_type)
{
	TargetEntry *target;
	Oid type;

	if (query->commandType != CMD_SELECT || query->hasModifyingCTE || query->rowMarks != NIL)
		ereport(ERROR, (errcode(ERRCODE_SYNTAX_ERROR),
						errmsg("must be a SELECT that changes and locks nothing")));
	if (ExecCleanTargetListLength(query->targetList) != 1)
		ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH),
						errmsg("must return one column, the contact's key")));
	target = linitial_node(TargetEntry, query->targetList);
	type = exprType((Node *) target->expr);
	if (!can_coerce_type(1, &type, &key_type, COERCION_ASSIGNMENT))
		ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH),
						errmsg("must return keys of type %s, not %s", format_type_be(key_type),
							   format_type_be(type)),
						parser_errposition(pstate, exprLocation((Node *) target->expr))));
}

/* Takes CHANGED out of the query; returns the names of its columns */
static List *
detach_changed(Query *query)
{
	List *names = NIL;
	ListCell *cell;

	foreach(cell, query->cteList)
	{
		CommonTableExpr *cte = lfirst_node(CommonTableExpr, cell);

		if (strcmp(cte->ctename, CHANGED) == 0)
		{
			names = cte->ctecolnames;
			query->cteList = foreach_delete_current(query->cteList, cell);
		}
	}
	return names;
}

static void
analyse_keys(Analysis *analysis)
{
	RawStmt *raw = makeNode(RawStmt);
	ParseState *pstate = make_parsestate(NULL);
	ColumnWalk walk = {0};
	Query *query;

	refuse_temporary(analysis->relation);
	pstate->p_sourcetext = analysis->text;
	raw->stmt = (Node *) parse_keys(analysis);
	query = transformTopLevelStmt(pstate, raw);
	check_keys(pstate, query, analysis->key_type);

	walk.names = detach_changed(query);
	walk.is_query = true;
	walk_columns((Node *) query, &walk);
	analysis->columns = walk.columns;

	enter_stored_surroundings();
	analysis->stored = pg_get_querydef(query, false);
	free_parsestate(pstate);
}

static void
check_query(Analysis *analysis)
{
	enter_stored_surroundings();
	run_for_no_row(analysis->text);
}

/* ---- entry points ---- */

/* As the role, with the names of who called the public function */
static void
run_as_role(void (*fn)(Analysis *analysis), Analysis *analysis)
{
	McIdentity saved;
	int nest_level = NewGUCNestLevel();

	(void) GetUserNameFromId(analysis->role, false);
	set_search_path(mc_caller_search_path());
	mc_become(analysis->role, SECURITY_RESTRICTED_OPERATION, &saved);
	with_label(fn, analysis);
	mc_restore(&saved);
	AtEOXact_GUC(true, nest_level);
}

static Datum
columns_array(const Analysis *analysis)
{
	Datum *names = palloc(sizeof(Datum) * (list_length(analysis->columns) + 1));
	int n = 0;
	ListCell *cell;

	foreach(cell, analysis->columns)
		names[n++] = CStringGetTextDatum(strVal(lfirst(cell)));
	return PointerGetDatum(construct_array(names, n, TEXTOID, -1, false, TYPALIGN_INT));
}

static Datum
record(FunctionCallInfo fcinfo, Datum *values)
{
	TupleDesc desc;
	bool nulls[4] = {0};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls));
}

/* analyse(role, relation, alias, expr, what, label): expr, bare, type, columns */
Datum
mc_analyse(PG_FUNCTION_ARGS)
{
	Analysis analysis = {0};
	Datum values[4];

	analysis.role = PG_GETARG_OID(0);
	analysis.relation = PG_GETARG_OID(1);
	analysis.alias = text_to_cstring(PG_GETARG_TEXT_PP(2));
	analysis.text = text_to_cstring(PG_GETARG_TEXT_PP(3));
	analysis.what = text_to_cstring(PG_GETARG_TEXT_PP(4));
	analysis.label = text_to_cstring(PG_GETARG_TEXT_PP(5));
	run_as_role(analyse_expression, &analysis);

	/* bpchar, not character, which as a cast means character(1) */
	values[0] = CStringGetTextDatum(analysis.stored);
	values[1] = CStringGetTextDatum(analysis.bare);
	values[2] = CStringGetTextDatum(format_type_extended(
		analysis.type, -1, FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY));
	values[3] = columns_array(&analysis);
	return record(fcinfo, values);
}

/* analyse_keys(role, relation, keys, key_type, label): expr, columns */
Datum
mc_analyse_keys(PG_FUNCTION_ARGS)
{
	Analysis analysis = {0};
	Datum values[2];

	analysis.role = PG_GETARG_OID(0);
	analysis.relation = PG_GETARG_OID(1);
	analysis.text = text_to_cstring(PG_GETARG_TEXT_PP(2));
	analysis.key_type = PG_GETARG_OID(3);
	analysis.label = text_to_cstring(PG_GETARG_TEXT_PP(4));
	run_as_role(analyse_keys, &analysis);

	values[0] = CStringGetTextDatum(analysis.stored);
	values[1] = columns_array(&analysis);
	return record(fcinfo, values);
}

/* check_query(role, query, label): may the role run a stored query? $1 is text[]. */
Datum
mc_check_query(PG_FUNCTION_ARGS)
{
	Analysis analysis = {0};

	analysis.role = PG_GETARG_OID(0);
	analysis.text = text_to_cstring(PG_GETARG_TEXT_PP(1));
	analysis.label = text_to_cstring(PG_GETARG_TEXT_PP(2));
	run_as_role(check_query, &analysis);
	PG_RETURN_VOID();
}
