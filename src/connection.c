/*-------------------------------------------------------------------------
 *
 * connection.c
 *	  Connections: the foreign data wrapper's validator, and how to reach the
 *	  account behind a foreign server.
 *
 * The server says where (dc, endpoint), the user mapping of its owner holds the
 * key or names the file with it. Mappings of others, and the public one, are never
 * looked at: a key works for whoever may use the connection, so it has to
 * be the owner's on purpose.
 *
 * An endpoint decides where the key is sent, and a key file is read as the
 * server's user, so both are for superusers, also in plain DDL.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <sys/stat.h>

#include "access/htup_details.h"
#include "access/reloptions.h"
#include "access/xlog.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_type.h"
#include "catalog/pg_user_mapping.h"
#include "common/cryptohash.h"
#include "common/sha2.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "tcop/tcopprot.h"
#include "utils/backend_status.h"
#include "utils/builtins.h"
#include "utils/syscache.h"

#include "compat.h"
#include "connection.h"

#define MAX_KEY 256
#define MAX_ENDPOINT 300

PG_FUNCTION_INFO_V1(mc_fdw_validator);
PG_FUNCTION_INFO_V1(mc_identity);

/* ---- what may be said ---- */

bool
mc_is_dc(const char *dc)
{
	int letters = strspn(dc, "abcdefghijklmnopqrstuvwxyz");
	int digits = strspn(dc + letters, "0123456789");

	return letters >= 2 && letters <= 5 && digits >= 1 && digits <= 3 &&
		   dc[letters + digits] == '\0';
}

static void
check_dc(const char *dc)
{
	if (!mc_is_dc(dc))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is not a data center of Mailchimp", dc),
				 errhint("It is what a key ends in after the last \"-\", for example us6.")));
}

/* Is it this machine, whatever the resolver says? Short forms such as 127.1 are not taken. */
static bool
is_loopback(const char *host)
{
	struct in_addr v4;

	if (strcmp(host, "localhost") == 0 || strcmp(host, "[::1]") == 0)
		return true;
	return inet_pton(AF_INET, host, &v4) == 1 && (ntohl(v4.s_addr) >> 24) == 127;
}

/* Length of the host at the start of s, 0 if there is none. */
static int
host_length(const char *s)
{
	char address[INET6_ADDRSTRLEN];
	struct in6_addr v6;
	const char *end;

	if (*s != '[')
		return strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-");
	end = strchr(s, ']');
	if (end == NULL || end - s > (int) sizeof(address))
		return 0;
	strlcpy(address, s + 1, end - s);
	return inet_pton(AF_INET6, address, &v6) == 1 ? end - s + 1 : 0;
}

/* Nothing, or a colon and a port. */
static bool
is_port(const char *s)
{
	int digits;

	if (*s == '\0')
		return true;
	digits = strspn(s + 1, "0123456789");
	return *s == ':' && digits >= 1 && digits <= 5 && s[1 + digits] == '\0' && atoi(s + 1) >= 1 &&
		   atoi(s + 1) <= 65535;
}

static void
check_endpoint(const char *endpoint)
{
	bool plain = strncmp(endpoint, "http://", 7) == 0;
	const char *host = endpoint + (plain ? 7 : 8);
	int length;

	if (!superuser())
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("only a superuser may set an endpoint"),
						errdetail("It decides where the API key is sent.")));
	if (strlen(endpoint) > MAX_ENDPOINT || (!plain && strncmp(endpoint, "https://", 8) != 0) ||
		(length = host_length(host)) == 0 || !is_port(host + length))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("\"%s\" is not an endpoint", endpoint),
						errhint("Give scheme, host and port only, for example "
								"https://proxy.example.org:8443.")));
	if (plain && !is_loopback(pnstrdup(host, length)))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("endpoint \"%s\" is not encrypted", endpoint),
						errhint("http is possible for localhost, 127.0.0.0/8 and [::1] only.")));
}

/* file: where it comes from, NULL: it was given. The key itself is never shown. */
static void
check_key(const char *key, const char *file)
{
	size_t len = strlen(key);

	for (const char *p = key; *p != '\0'; p++)
		if (*p <= ' ' || *p > '~')
			len = 0;
	if (len == 0 || len > MAX_KEY)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						file ? errmsg("file \"%s\" does not hold an API key of Mailchimp", file)
							 : errmsg("that is not an API key of Mailchimp"),
						errdetail("A key has 1 to %d printable ASCII characters without spaces.",
								  MAX_KEY)));
}

static void
check_key_file(const char *path)
{
	if (!superuser())
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("only a superuser may name a file with the API key"),
						errdetail("It is read as the user that the server runs as.")));
	if (path[0] == '\0')
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("the name of the file is empty")));
}

/* Raises on anything that would not do, by the rules for its name. */
void
mc_check_option(const char *name, const char *value)
{
	if (strcmp(name, "dc") == 0)
		check_dc(value);
	else if (strcmp(name, "endpoint") == 0)
		check_endpoint(value);
	else if (strcmp(name, "api_key") == 0)
		check_key(value, NULL);
	else
		check_key_file(value);
}

/*
 * As callback of error_context_stack: no report, whatever it is, shows the
 * statement or the context in the log. They may contain a key.
 */
void
mc_hide_statement(void *arg)
{
	errhidestmt(true);
	errhidecontext(true);
}

/* Shows something else than the statement that runs, also with what fails later in it. */
void
mc_hide_activity(const char *shown)
{
	if (debug_query_string != NULL)
		debug_query_string = shown;
	pgstat_report_activity(STATE_RUNNING, shown);
}

static void
validate(List *options, Oid catalog)
{
	const char *known[2] = {NULL, NULL};
	int found = 0;
	ListCell *cell;

	if (catalog == ForeignServerRelationId)
		known[0] = "dc", known[1] = "endpoint";
	else if (catalog == UserMappingRelationId)
		known[0] = "api_key", known[1] = "api_key_file";

	foreach(cell, options)
	{
		DefElem *option = lfirst_node(DefElem, cell);

		if (known[0] == NULL ||
			(strcmp(option->defname, known[0]) != 0 && strcmp(option->defname, known[1]) != 0))
			ereport(ERROR,
					(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
					 errmsg("invalid option \"%s\"", option->defname),
					 known[0] ? errhint("Valid options here are %s and %s.", known[0], known[1])
							  : errhint("There are no valid options here.")));
		mc_check_option(option->defname, defGetString(option));
		found++;
	}
	if (catalog == UserMappingRelationId && found > 1)
		ereport(ERROR, (errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
						errmsg("api_key and api_key_file exclude each other")));
}

/* CREATE and ALTER of servers, mappings and the wrapper itself come by here. */
Datum
mc_fdw_validator(PG_FUNCTION_ARGS)
{
	ErrorContextCallback hide = {.callback = mc_hide_statement, .previous = error_context_stack};

	error_context_stack = &hide;
	validate(untransformRelOptions(PG_GETARG_DATUM(0)), PG_GETARG_OID(1));
	error_context_stack = hide.previous;
	PG_RETURN_VOID();
}

/* ---- what is stored ---- */

char *
mc_find_option(List *options, const char *name)
{
	ListCell *cell;

	foreach(cell, options)
	{
		DefElem *option = lfirst_node(DefElem, cell);

		if (strcmp(option->defname, name) == 0)
			return defGetString(option);
	}
	return NULL;
}

/* The foreign server, NULL if there is none. One of another wrapper raises. */
ForeignServer *
mc_find_server(const char *name)
{
	ForeignServer *server = GetForeignServerByName(name, true);

	if (server != NULL && strcmp(GetForeignDataWrapper(server->fdwid)->fdwname, MC_EXTENSION) != 0)
		ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
						errmsg("foreign server \"%s\" is not a connection to Mailchimp", name),
						errhint("Choose another name for the connection.")));
	return server;
}

/* The options of the mapping of the server's owner; false: there is none. */
bool
mc_find_mapping(const ForeignServer *server, List **options)
{
	HeapTuple tuple = SearchSysCache2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(server->owner),
									  ObjectIdGetDatum(server->serverid));
	Datum datum;
	bool isnull;

	*options = NIL;
	if (!HeapTupleIsValid(tuple))
		return false;
	datum = SysCacheGetAttr(USERMAPPINGUSERSERVER, tuple, Anum_pg_user_mapping_umoptions, &isnull);
	if (!isnull)
		*options = untransformRelOptions(datum);
	ReleaseSysCache(tuple);
	return true;
}

/* ---- how to get there ---- */

pg_noreturn static void file_error(const char *path, const char *why);

static void
file_error(const char *path, const char *why)
{
	ereport(ERROR, (errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
					errmsg("could not read the API key from file \"%s\": %s", path, why),
					errhint("The file is read each time, by the user that the server runs as.")));
}

/*
 * The key in a file, without the white space around it. A relative path starts
 * at the data directory. Only ordinary files: a pipe would make us wait.
 */
char *
mc_read_key_file(const char *path)
{
	char buffer[MAX_KEY * 2];
	struct stat st;
	FILE *file;
	size_t len;
	char *start = buffer;

	if (stat(path, &st) != 0)
		file_error(path, pg_strerror(errno));
	if (!S_ISREG(st.st_mode))
		file_error(path, "it is not an ordinary file");
	file = AllocateFile(path, PG_BINARY_R);
	if (file == NULL)
		file_error(path, pg_strerror(errno));
	len = fread(buffer, 1, sizeof(buffer) - 1, file);
	if (ferror(file))
		file_error(path, pg_strerror(errno));
	FreeFile(file);

	while (len > 0 && strchr(" \t\r\n", buffer[len - 1]) != NULL)
		len--;
	buffer[len] = '\0';
	start += strspn(start, " \t\r\n");
	if (strlen(buffer) != len)
		start = buffer + len; /* a zero byte inside: no key */
	check_key(start, path);
	return pstrdup(start);
}

static void
hash_text(const char *text, char *hex)
{
	uint8 digest[PG_SHA256_DIGEST_LENGTH];
	pg_cryptohash_ctx *ctx = pg_cryptohash_create(PG_SHA256);

	if (ctx == NULL || pg_cryptohash_init(ctx) < 0 ||
		pg_cryptohash_update(ctx, (const uint8 *) text, strlen(text)) < 0 ||
		pg_cryptohash_final(ctx, digest, sizeof(digest)) < 0)
		elog(ERROR, "could not compute a SHA-256 hash");
	pg_cryptohash_free(ctx);
	hex_encode((const char *) digest, sizeof(digest), hex);
	hex[PG_SHA256_DIGEST_LENGTH * 2] = '\0';
}

/* Whose slots: of the login if we know which it is, else of the key. */
void
mc_connection_set_user(McConnection *connection, const char *login_id)
{
	if (login_id != NULL && connection->dc != NULL)
		hash_text(psprintf("%s/%s", connection->dc, login_id), connection->slot_user);
	else
		hash_text(connection->api_key, connection->slot_user);
}

/*
 * A connection with the given key. dc NULL: what the key ends in; it may be
 * unknown where there is an endpoint.
 */
McConnection *
mc_connection_make(const char *name, const char *api_key, const char *dc, const char *endpoint)
{
	McConnection *connection = palloc0(sizeof(McConnection));
	const char *dash = strrchr(api_key, '-');

	if (dc == NULL && dash != NULL && mc_is_dc(dash + 1))
		dc = dash + 1;
	if (dc == NULL && endpoint == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the data center of connection \"%s\" is not known", name),
				 errdetail("The key does not end in one."),
				 errhint("Give dc, for example us6: the first part of the address that Mailchimp's "
						 "pages have in the browser.")));
	connection->name = pstrdup(name);
	connection->api_key = pstrdup(api_key);
	connection->dc = dc != NULL ? pstrdup(dc) : NULL;
	connection->base_url = endpoint != NULL ? psprintf("%s/3.0", endpoint)
											: psprintf("https://%s.api.mailchimp.com/3.0", dc);
	connection->max_connections = mc_max_connections;
	mc_connection_set_user(connection, NULL);
	return connection;
}

static char *
stored_key(const char *name, const ForeignServer *server)
{
	List *options;
	char *file;
	char *key;

	mc_find_mapping(server, &options);
	file = mc_find_option(options, "api_key_file");
	key = file != NULL ? mc_read_key_file(file) : mc_find_option(options, "api_key");
	if (key == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
				 errmsg("connection \"%s\" has no API key", name),
				 errhint("Give one to mc_connect, or to a user mapping of the server's owner "
						 "\"%s\".",
						 GetUserNameFromId(server->owner, false))));
	return key;
}

/* What the table says: whose slots, and how many at most. */
static void
load_row(McConnection *connection)
{
	McIdentity saved;
	MemoryContext context = CurrentMemoryContext;

	mc_become_owner(&saved);
	SPI_connect();
	if (MC_SQL("SELECT c.login_id, c.max_connections FROM mailchimp_sync.connection c "
			   "WHERE c.connection OPERATOR(pg_catalog.=) $1",
			   mc_arg_text(connection->name)) > 0)
	{
		bool no_limit;
		int limit = (int) mc_result_int8(0, 2, &no_limit);
		char *login_id = mc_result_text(0, 1);

		if (!no_limit)
			connection->max_connections = Min(limit, connection->max_connections);
		MemoryContextSwitchTo(context);
		mc_connection_set_user(connection, login_id);
	}
	SPI_finish();
	mc_restore(&saved);
}

McConnection *
mc_connection_load(const char *name)
{
	ForeignServer *server = mc_find_server(name);
	McConnection *connection;

	if (server == NULL)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
						errmsg("connection \"%s\" does not exist", name),
						errhint("mc_connect makes it.")));
	connection =
		mc_connection_make(name, stored_key(name, server), mc_find_option(server->options, "dc"),
						   mc_find_option(server->options, "endpoint"));
	load_row(connection);
	return connection;
}

/* identity(OUT system_id, OUT database_oid, OUT instance): which database this is */
Datum
mc_identity(PG_FUNCTION_ARGS)
{
	TupleDesc tupdesc;
	Datum values[3];
	bool nulls[3] = {false, false, false};

	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	values[0] = Int64GetDatum((int64) GetSystemIdentifier());
	values[1] = Int64GetDatum((int64) MyDatabaseId);
	values[2] = CStringGetTextDatum(mc_instance != NULL ? mc_instance : "");
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc), values, nulls)));
}
