/*-------------------------------------------------------------------------
 *
 * level.c
 *	  Whether the caller has a level on what a call is about.
 *
 * Levels come from mc_grant (sql/gate.sql); the owner of a server is admin of
 * its connection; a superuser may do everything. Sources and opt-outs belong
 * to no connection: for them the level on any connection will do.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "gate.h"
#include "mailchimp_sync.h"

static const char *const level_names[] = {"reader", "marketer", "admin", "webhook"};

/* How an object leads to its connection, by scope. */
static const struct
{
	const char *kind;
	const char *find;
	const char *unknown;
} objects[] = {
	[MC_CONNECTION] =
		{"connection",
		 "SELECT connection FROM mailchimp_sync.known_connection WHERE connection = $1",
		 "SELECT mailchimp_sync.raise_unknown('connection', $1, $2)"},
	[MC_AUDIENCE] =
		{"audience", "SELECT connection FROM mailchimp_sync.audience WHERE audience = $1",
		 "SELECT mailchimp_sync.raise_unknown('audience', $1, (SELECT array_agg(audience)"
		 " FROM mailchimp_sync.audience WHERE connection = ANY ($2)))"},
	[MC_CAMPAIGN] =
		{"campaign",
		 "SELECT connection FROM mailchimp_sync.campaign WHERE campaign_id = $1::bigint",
		 "SELECT mailchimp_sync.raise_unknown('campaign', $1, (SELECT array_agg("
		 "campaign_id::text) FROM mailchimp_sync.campaign WHERE connection = ANY ($2)))"},
};

/* The connections on which the caller has the level; all: on those to come, too. */
typedef struct Held
{
	char **connections;
	int n;
	bool all;
} Held;

/* Runs a statement that is kept for the life of the process; all arguments are text or oid. */
static void
run_kept(SPIPlanPtr *plan, const char *query, int nargs, Oid *types, Datum *values)
{
	int result;

	if (*plan == NULL)
	{
		SPIPlanPtr prepared = SPI_prepare_cursor(query, nargs, types, CURSOR_OPT_GENERIC_PLAN);

		if (prepared == NULL || SPI_keepplan(prepared) != 0)
			elog(ERROR, "%s: %s", SPI_result_code_string(SPI_result), query);
		*plan = prepared;
	}
	result = SPI_execute_plan(*plan, values, NULL, false, 0);
	if (result < 0)
		elog(ERROR, "%s: %s", SPI_result_code_string(result), query);
}

static Held
find_held(Oid caller, McLevel level)
{
	static SPIPlanPtr plan = NULL;
	Held held = {0};

	run_kept(&plan,
			 "SELECT connection FROM mailchimp_sync.given_level"
			 " WHERE level = $2 AND (role = 0 OR pg_has_role($1, role, 'USAGE'))",
			 2, (Oid[]){OIDOID, TEXTOID},
			 (Datum[]){ObjectIdGetDatum(caller), CStringGetTextDatum(level_names[level])});
	held.connections = palloc(sizeof(char *) * Max(SPI_processed, 1));
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		char *connection = mc_result_text(i, 1);

		if (connection[0] == '\0')
			held.all = true;
		else
			held.connections[held.n++] = connection;
	}
	return held;
}

static bool
holds(const Held *held, const char *connection)
{
	for (int i = 0; i < held->n; i++)
		if (strcmp(held->connections[i], connection) == 0)
			return true;
	return held->all;
}

/* The connection that an object belongs to, or NULL. */
static char *
find_connection(McScope scope, const char *object)
{
	static SPIPlanPtr plans[lengthof(objects)];

	run_kept(&plans[scope], objects[scope].find, 1, (Oid[]){TEXTOID},
			 (Datum[]){CStringGetTextDatum(object)});
	return SPI_processed > 0 ? mc_result_text(0, 1) : NULL;
}

/* The connection is named only to who has the level somewhere. */
static void
deny(const McDemand *demand, const char *connection)
{
	char *role = quote_literal_cstr(GetUserNameFromId(mc_caller(), false));
	const char *level = level_names[demand->level];

	ereport(
		ERROR,
		(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
		 errmsg("permission denied for %s %s", demand->kind, demand->name),
		 connection ? errdetail("It takes the level %s on connection \"%s\".", level, connection)
		 : demand->scope == MC_ALL ? errdetail("It takes the level %s on all connections.", level)
								   : errdetail("It takes the level %s.", level),
		 connection ? errhint("An admin can give it: SELECT mc_grant(%s, '%s', %s);", role, level,
							  quote_literal_cstr(connection))
					: errhint("An admin can give it: SELECT mc_grant(%s, '%s');", role, level)));
}

/*
 * Raises unless the caller may. Nobody learns which names exist without the level
 * on at least one connection. What does not exist is let through to who has it on
 * all: the function itself says so, as to a superuser.
 */
void
mc_check_level(const McDemand *demand)
{
	McScope scope = demand->scope == MC_NEW_CONNECTION ? MC_CONNECTION : demand->scope;
	Held held;
	char *connection;

	if (superuser_arg(mc_caller()))
		return;
	held = find_held(mc_caller(), demand->level);
	if (!held.all && held.n == 0)
		deny(demand, NULL);
	if (held.all || scope == MC_ANY)
		return;
	if (scope == MC_ALL)
		deny(demand, NULL);

	connection = find_connection(scope, demand->object);
	if (connection == NULL && demand->scope != MC_NEW_CONNECTION)
		mc_sql(objects[scope].unknown, 2,
			   (McArg[]){mc_arg_text(demand->object), mc_arg_text_array(held.connections, held.n)});
	else if (connection != NULL && !holds(&held, connection))
		deny(demand, connection);
}

const char *
mc_level_name(McLevel level)
{
	return level_names[level];
}

McLevel
mc_find_level(const char *name)
{
	for (size_t i = 0; i < lengthof(level_names); i++)
		if (strcmp(level_names[i], name) == 0)
			return (McLevel) i;
	elog(ERROR, "there is no level \"%s\"", name);
}

McScope
mc_find_scope(const char *kind)
{
	for (size_t i = 0; i < lengthof(objects); i++)
		if (objects[i].kind != NULL && strcmp(objects[i].kind, kind) == 0)
			return (McScope) i;
	elog(ERROR, "the gate knows no \"%s\"", kind);
}
