/*-------------------------------------------------------------------------
 *
 * connect.c
 *	  mc_connect: a key becomes a connection.
 *
 * Works as its caller, who becomes the owner of the server: what he may not do
 * by CREATE SERVER he may not do here. The key goes from the argument to the user
 * mapping without ever being part of an SQL text.
 *
 * The order matters. First everything that can be refused without asking, then
 * Mailchimp, then the catalogs and our tables: a wrong key stores nothing, and
 * nothing is locked while we wait.
 *
 * The statement that called us may contain the key. So as long as we run, no
 * report shows it (a callback hides statement and context from the log,
 * for errors, warnings and the end of the process alike), pg_stat_activity shows something
 * else, and what fails later in the same statement shows that too.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "utils/acl.h"
#include "utils/builtins.h"

#include "account.h"
#include "ask.h"
#include "connection.h"
#include "gate.h"

PG_FUNCTION_INFO_V1(mc_connect);

static const char shown_statement[] = "SELECT mc_connect(...)";

/* What was given, and what is there already. */
typedef struct Connect
{
	char *name;
	char *api_key;
	char *api_key_file;
	char *dc;
	char *endpoint;
	bool switch_account;

	ForeignServer *server; /* NULL: there is none yet */
	List *server_options;
	bool has_mapping;
	List *mapping_options;

	McConnection *connection; /* NULL: without a key */
	McAccount account;
} Connect;

/* ---- what can be refused without asking ---- */

static char *
text_argument(FunctionCallInfo fcinfo, int i)
{
	return PG_ARGISNULL(i) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(i));
}

static void
read_arguments(FunctionCallInfo fcinfo, Connect *c)
{
	memset(c, 0, sizeof(Connect));
	c->name = text_argument(fcinfo, 0);
	c->api_key = text_argument(fcinfo, 1);
	c->api_key_file = text_argument(fcinfo, 2);
	c->dc = text_argument(fcinfo, 3);
	c->endpoint = text_argument(fcinfo, 4);
	c->switch_account = !PG_ARGISNULL(5) && PG_GETARG_BOOL(5);

	if (c->name[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("the connection needs a name")));
	if (strlen(c->name) >= NAMEDATALEN)
		ereport(ERROR, (errcode(ERRCODE_NAME_TOO_LONG),
						errmsg("connection name \"%s\" is too long", c->name),
						errdetail("It must be shorter than %d bytes.", NAMEDATALEN)));
	if (c->api_key != NULL && c->api_key_file != NULL)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("api_key and api_key_file exclude each other")));
	if (c->api_key != NULL)
		mc_check_option("api_key", c->api_key);
	if (c->api_key_file != NULL)
		mc_check_option("api_key_file", c->api_key_file);
	if (c->dc != NULL)
		mc_check_option("dc", c->dc);
	if (c->endpoint != NULL)
		mc_check_option("endpoint", c->endpoint);
}

/* What is there stays in force where nothing else was given. */
static void
find_existing(Connect *c)
{
	c->server = mc_find_server(c->name);
	if (c->server == NULL)
		return;
	if (!has_privs_of_role(GetUserId(), c->server->owner))
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("must be owner of connection \"%s\"", c->name),
						errhint("Its owner is \"%s\": the key is kept in that role's user mapping.",
								GetUserNameFromId(c->server->owner, false))));
	c->server_options = c->server->options;
	c->has_mapping = mc_find_mapping(c->server, &c->mapping_options);
}

/* The key in force: given, or stored; NULL: none. */
static char *
key_in_force(const Connect *c)
{
	const char *file = c->api_key_file;

	if (c->api_key != NULL)
		return c->api_key;
	if (file == NULL)
		file = mc_find_option(c->mapping_options, "api_key_file");
	return file != NULL ? mc_read_key_file(file) : mc_find_option(c->mapping_options, "api_key");
}

/*
 * A stored dc belongs to the stored key; a new key brings its own, if it ends in
 * one.
 */
static void
make_connection(Connect *c)
{
	bool stored = c->api_key == NULL && c->api_key_file == NULL;
	char *key = key_in_force(c);
	char *endpoint = c->endpoint;
	const char *dc = c->dc;
	const char *dash;

	if (key == NULL)
		return;
	dash = strrchr(key, '-');
	if (dc == NULL && (stored || dash == NULL || !mc_is_dc(dash + 1)))
		dc = mc_find_option(c->server_options, "dc");
	if (endpoint == NULL)
		endpoint = mc_find_option(c->server_options, "endpoint");
	c->connection = mc_connection_make(c->name, key, dc, endpoint);
}

static void
require_sending(void *arg)
{
	Connect *c = arg;

	SPI_connect();
	MC_SQL("SELECT mailchimp_sync.require_sending($1)", mc_arg_text(c->name));
	SPI_finish();
}

/* ---- the catalogs ---- */

/* Appends what makes option name have the value (NULL: makes it go away). */
static List *
change_option(List *changes, List *existing, const char *name, const char *value)
{
	const char *old = mc_find_option(existing, name);
	DefElemAction action = old == NULL ? DEFELEM_ADD : value == NULL ? DEFELEM_DROP : DEFELEM_SET;

	if (old == value || (old != NULL && value != NULL && strcmp(old, value) == 0))
		return changes;
	return lappend(changes,
				   makeDefElemExtended(NULL, pstrdup(name),
									   value != NULL ? (Node *) makeString(pstrdup(value)) : NULL,
									   action, -1));
}

/*
 * The data center is written down with the server, so that everybody sees it;
 * with an endpoint only if it was given, for it does not decide then, and
 * who is no superuser could not change the server.
 */
static List *
server_changes(const Connect *c)
{
	bool proxied = c->endpoint != NULL || mc_find_option(c->server_options, "endpoint") != NULL;
	const char *dc = c->dc;
	List *changes = NIL;

	if (dc == NULL && c->connection != NULL && !proxied)
		dc = c->connection->dc;
	if (dc != NULL)
		changes = change_option(changes, c->server_options, "dc", dc);
	if (c->endpoint != NULL)
		changes = change_option(changes, c->server_options, "endpoint", c->endpoint);
	return changes;
}

static void
put_server(Connect *c)
{
	List *changes = server_changes(c);

	if (c->server == NULL)
	{
		CreateForeignServerStmt *stmt = makeNode(CreateForeignServerStmt);

		stmt->servername = c->name;
		stmt->fdwname = MC_EXTENSION;
		stmt->options = changes;
		CreateForeignServer(stmt);
	}
	else if (changes != NIL)
	{
		AlterForeignServerStmt *stmt = makeNode(AlterForeignServerStmt);

		stmt->servername = c->name;
		stmt->options = changes;
		AlterForeignServer(stmt);
	}
	CommandCounterIncrement();
	c->server = mc_find_server(c->name);
}

static void
put_mapping(Connect *c)
{
	RoleSpec *user = makeNode(RoleSpec);
	List *changes = NIL;

	if (c->api_key == NULL && c->api_key_file == NULL)
		return;
	user->roletype = ROLESPEC_CSTRING;
	user->rolename = GetUserNameFromId(c->server->owner, false);
	user->location = -1;
	changes = change_option(changes, c->mapping_options, "api_key", c->api_key);
	changes = change_option(changes, c->mapping_options, "api_key_file", c->api_key_file);
	if (!c->has_mapping)
	{
		CreateUserMappingStmt *stmt = makeNode(CreateUserMappingStmt);

		stmt->user = user;
		stmt->servername = c->name;
		stmt->options = changes;
		CreateUserMapping(stmt);
	}
	else if (changes != NIL)
	{
		AlterUserMappingStmt *stmt = makeNode(AlterUserMappingStmt);

		stmt->user = user;
		stmt->servername = c->name;
		stmt->options = changes;
		AlterUserMapping(stmt);
	}
	CommandCounterIncrement();
}

/* ---- our tables ---- */

/* Before anything is written: is it the account that we know? */
static void
check_account(void *arg)
{
	Connect *c = arg;

	SPI_connect();
	MC_SQL("SELECT mailchimp_sync.check_account($1, $2)", mc_arg_text(c->name),
		   mc_json_text_arg(c->account.root, "account_id"));
	SPI_finish();
}

static void
store(void *arg)
{
	Connect *c = arg;

	SPI_connect();
	if (c->connection != NULL)
		mc_account_store(c->connection, &c->account, c->switch_account);
	else
		MC_SQL("SELECT mailchimp_sync.store_no_key($1)", mc_arg_text(c->name));
	SPI_finish();
}

static char *
connect_account(Connect *c)
{
	McReply *failed;

	find_existing(c);
	make_connection(c);
	if (c->connection != NULL)
	{
		mc_as_owner(require_sending, c);
		failed = mc_account_ask(c->connection, NIL, &c->account);
		if (failed != NULL)
			mc_reply_raise(failed);
		if (!c->switch_account)
			mc_as_owner(check_account, c);
		find_existing(c); /* somebody else may have been here while we waited */
	}
	put_server(c);
	put_mapping(c);
	mc_as_owner(store, c);
	mc_wake_at_commit();
	return c->connection != NULL ? c->account.account_name : NULL;
}

Datum
mc_connect(PG_FUNCTION_ARGS)
{
	ErrorContextCallback hide = {.callback = mc_hide_statement, .previous = error_context_stack};
	Connect c;
	char *account_name;

	error_context_stack = &hide;
	mc_hide_activity(shown_statement);
	mc_gate_check(fcinfo);
	read_arguments(fcinfo, &c);
	account_name = connect_account(&c);
	error_context_stack = hide.previous;

	if (account_name == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(account_name));
}
