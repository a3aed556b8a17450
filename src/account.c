/*-------------------------------------------------------------------------
 *
 * account.c
 *	  What Mailchimp shows of an account: who it is, its lists with their merge
 *	  fields, its templates and its sending domains.
 *
 * Asking comes first and touches no table; storing is a handful of set-based
 * statements at the end (the functions store_* in refresh.sql). So nothing
 * of ours is locked while we wait for the network, and an answer that is
 * missing leaves everything as it was.
 *
 * A page is followed by the next until one is short: total_items is not
 * reliable everywhere (API.md).
 *
 * The table of parts below is also what the engine goes by, which fetches them one by one (refresh.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"

#include "account.h"
#include "ask.h"

#define PAGE_SIZE 1000

#define ROOT_PATH "/?fields=account_id,account_name,login_id,role,pricing_plan_type"

PG_FUNCTION_INFO_V1(mc_refresh);
PG_FUNCTION_INFO_V1(mc_ask_account);
PG_FUNCTION_INFO_V1(mc_part_path);

/* ---- the parts ---- */

static void
store_lists(const char *connection, const char *list_id, const cJSON *rows)
{
	MC_SQL("SELECT mailchimp_sync.store_lists($1, $2, $3, $4, $5, $6, $7, $8)",
		   mc_arg_text(connection), mc_json_column(rows, "id"), mc_json_column(rows, "web_id"),
		   mc_json_column(rows, "name"), mc_json_column(rows, "campaign_defaults.from_name"),
		   mc_json_column(rows, "campaign_defaults.from_email"),
		   mc_json_column(rows, "stats.member_count"), mc_json_column(rows, "double_optin"));
}

static void
store_templates(const char *connection, const char *list_id, const cJSON *rows)
{
	MC_SQL("SELECT mailchimp_sync.store_templates($1, $2, $3, $4, $5, $6)", mc_arg_text(connection),
		   mc_json_column(rows, "id"), mc_json_column(rows, "name"), mc_json_column(rows, "type"),
		   mc_json_column(rows, "active"), mc_json_column(rows, "date_edited"));
}

static void
store_domains(const char *connection, const char *list_id, const cJSON *rows)
{
	MC_SQL("SELECT mailchimp_sync.store_domains($1, $2, $3, $4, $5, $6)", mc_arg_text(connection),
		   mc_json_column(rows, "domain"), mc_json_column(rows, "verified"),
		   mc_json_column(rows, "authenticated"), mc_json_column(rows, "status"),
		   mc_json_column(rows, "is_free_email_provider"));
}

static void
store_fields(const char *connection, const char *list_id, const cJSON *rows)
{
	MC_SQL("SELECT mailchimp_sync.store_list_fields($1, $2, $3, $4, $5, $6, $7, $8)",
		   mc_arg_text(connection), mc_arg_text(list_id), mc_json_column(rows, "tag"),
		   mc_json_column(rows, "merge_id"), mc_json_column(rows, "name"),
		   mc_json_column(rows, "type"), mc_json_column(rows, "required"),
		   mc_json_column(rows, "default_value"));
}

/* In the order of McAccountPart. */
static const struct
{
	const char *what;	/* as in mailchimp_sync.refresh */
	const char *shown;	/* to people */
	const char *path;	/* below that of the list, if it is about one */
	const char *member; /* of the answer, an array */
	const char *id;		/* member of a row */
	bool paged;
	void (*store)(const char *connection, const char *list_id, const cJSON *rows);
} parts[] = {
	{"lists", "lists",
	 "/lists?fields=lists.id,lists.web_id,lists.name,lists.double_optin,"
	 "lists.campaign_defaults.from_name,lists.campaign_defaults.from_email,"
	 "lists.stats.member_count",
	 "lists", "id", true, store_lists},
	{"templates", "templates",
	 "/templates?type=user&fields=templates.id,templates.name,templates.type,templates.active,"
	 "templates.date_edited",
	 "templates", "id", true, store_templates},
	/* has no pages */
	{"domains", "sending domains", "/verified-domains", "domains", "domain", false, store_domains},
	{"fields", "merge fields",
	 "/merge-fields?fields=merge_fields.merge_id,merge_fields.tag,merge_fields.name,"
	 "merge_fields.type,merge_fields.required,merge_fields.default_value",
	 "merge_fields", "tag", true, store_fields},
};

McAccountPart
mc_account_part(const char *what)
{
	for (size_t i = 0; i < lengthof(parts); i++)
		if (strcmp(parts[i].what, what) == 0)
			return (McAccountPart) i;
	elog(ERROR, "an account has no part \"%s\"", what);
	pg_unreachable();
}

const cJSON *
mc_account_rows(McAccountPart part, const cJSON *answer)
{
	return mc_json_needed_array(answer, parts[part].member);
}

void
mc_account_store_rows(McAccountPart part, const char *connection, const char *list_id,
					  const cJSON *rows)
{
	parts[part].store(connection, list_id, rows);
}

McArg
mc_account_ids(McAccountPart part, const cJSON *rows)
{
	return mc_json_column(rows, parts[part].id);
}

bool
mc_account_is_last(McAccountPart part, const cJSON *rows)
{
	return !parts[part].paged || cJSON_GetArraySize(rows) < PAGE_SIZE;
}

static char *
page_path(McAccountPart part, const char *list_id, int64 offset)
{
	char *path = part == MC_FIELDS ? psprintf("/lists/%s%s", list_id, parts[part].path)
								   : pstrdup(parts[part].path);

	return parts[part].paged ? psprintf("%s&count=%d&offset=" INT64_FORMAT, path, PAGE_SIZE, offset)
							 : path;
}

/* part_path(_what, _list_id, _offset): for the engine, which asks for one page at a time */
Datum
mc_part_path(PG_FUNCTION_ARGS)
{
	char *what = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char *list_id = text_to_cstring(PG_GETARG_TEXT_PP(1));

	if (strcmp(what, "account") == 0)
		PG_RETURN_TEXT_P(cstring_to_text(ROOT_PATH));
	PG_RETURN_TEXT_P(
		cstring_to_text(page_path(mc_account_part(what), list_id, PG_GETARG_INT64(2))));
}

/* ---- asking ---- */

/* An answer that is not what we asked for: an error as it is, anything else for lack of the member. */
static McReply *
unusable(McReply *reply, const char *member)
{
	if (reply->outcome == MC_ANSWERED && reply->status >= 200 && reply->status <= 299)
	{
		reply->outcome = MC_DOUBT;
		reply->title = "No usable answer";
		reply->detail =
			psprintf("the answer (HTTP status %d) has no \"%s\"", reply->status, member);
	}
	return reply;
}

/* All pages of a part, put together in the first one. Returns the answer that is not usable, else NULL. */
static McReply *
ask_part(const McConnection *connection, McAccountPart part, const char *list_id,
		 TimestampTz deadline, cJSON **rows)
{
	*rows = NULL;
	for (int64 offset = 0;; offset += PAGE_SIZE)
	{
		McReply *reply =
			mc_ask(connection, "GET", page_path(part, list_id, offset), NULL, deadline);
		cJSON *page = cJSON_GetObjectItemCaseSensitive(reply->json, parts[part].member);
		bool is_last;

		if (!mc_reply_ok(reply) || !cJSON_IsArray(page))
			return unusable(reply, parts[part].member);
		is_last = mc_account_is_last(part, page);
		if (*rows == NULL)
			*rows = page;
		else
			while (page->child != NULL)
				cJSON_AddItemToArray(*rows, cJSON_DetachItemViaPointer(page, page->child));
		if (is_last)
			return NULL;
	}
}

/*
 * A user of Mailchimp with a small role sees part of the account only, and a
 * list can be deleted there: the rest is worth having. Everything else ends it.
 */
static McReply *
tolerate(McReply *failed, const char *what, cJSON **array)
{
	if (failed == NULL || failed->outcome != MC_ANSWERED ||
		(failed->status != 403 && failed->status != 404))
		return failed;
	*array = NULL;
	ereport(WARNING, (errcode(ERRCODE_WARNING), errmsg("Mailchimp does not show the %s", what),
					  errdetail_internal("%s: %s", failed->title ? failed->title : "no title",
										 failed->detail ? failed->detail : "")));
	return NULL;
}

McReply *
mc_account_ask(const McConnection *connection, const List *list_ids, McAccount *account)
{
	TimestampTz deadline = mc_ask_deadline();
	McReply *reply = mc_ask(connection, "GET", ROOT_PATH, NULL, deadline);
	McReply *failed;
	ListCell *cell;

	memset(account, 0, sizeof(McAccount));
	if (!mc_reply_ok(reply) || mc_json_text(reply->json, "account_id") == NULL)
		return unusable(reply, "account_id");
	account->root = reply->json;
	account->account_name = mc_json_text(account->root, "account_name");

	for (int part = MC_LISTS; part < MC_FIELDS; part++)
	{
		failed = ask_part(connection, part, NULL, deadline, &account->rows[part]);
		failed = tolerate(failed, parts[part].shown, &account->rows[part]);
		if (failed != NULL)
			return failed;
	}
	foreach(cell, list_ids)
	{
		McListFields *list = palloc0(sizeof(McListFields));

		list->list_id = lfirst(cell);
		failed = ask_part(connection, MC_FIELDS, list->list_id, deadline, &list->fields);
		failed = tolerate(failed, psprintf("%s of list %s", parts[MC_FIELDS].shown, list->list_id),
						  &list->fields);
		if (failed != NULL)
			return failed;
		account->list_fields = lappend(account->list_fields, list);
	}
	return NULL;
}

/* ---- storing ---- */

void
mc_account_store_part(McAccountPart part, const char *connection, const char *list_id,
					  const cJSON *rows)
{
	parts[part].store(connection, list_id, rows);
	MC_SQL("SELECT mailchimp_sync.part_fetched($1, $2, $3, $4)", mc_arg_text(connection),
		   mc_arg_text(parts[part].what), mc_arg_text(list_id), mc_account_ids(part, rows));
}

void
mc_account_store(const McConnection *connection, const McAccount *account, bool switch_account)
{
	const cJSON *root = account->root;
	ListCell *cell;

	MC_SQL("SELECT mailchimp_sync.store_account($1, $2, $3, $4, $5, $6, $7, $8)",
		   mc_arg_text(connection->name), mc_arg_text(connection->dc),
		   mc_json_text_arg(root, "account_id"), mc_arg_text(account->account_name),
		   mc_json_text_arg(root, "login_id"), mc_json_text_arg(root, "role"),
		   mc_json_text_arg(root, "pricing_plan_type"), mc_arg_bool(switch_account));
	MC_SQL("SELECT mailchimp_sync.part_fetched($1, 'account', NULL, '{}')",
		   mc_arg_text(connection->name));
	for (int part = MC_LISTS; part < MC_FIELDS; part++)
		if (account->rows[part] != NULL)
			mc_account_store_part(part, connection->name, NULL, account->rows[part]);
	foreach(cell, account->list_fields)
	{
		const McListFields *list = lfirst(cell);

		if (list->fields != NULL)
			mc_account_store_part(MC_FIELDS, connection->name, list->list_id, list->fields);
	}
}

/* The lists that audiences of the connection are coupled to. */
static List *
coupled_lists(const char *connection)
{
	List *result = NIL;
	uint64 rows = MC_SQL("SELECT a.list_id FROM mailchimp_sync.audience a WHERE a.connection = $1 "
						 "ORDER BY a.audience_id",
						 mc_arg_text(connection));

	for (uint64 i = 0; i < rows; i++)
		result = lappend(result, mc_result_text(i, 1));
	return result;
}

/* Asks again and stores it. Returns the answer that was not usable, NULL if all were. */
static McReply *
refresh(const char *name)
{
	McConnection *connection = mc_connection_load(name);
	McAccount account;
	McReply *failed = mc_account_ask(connection, coupled_lists(name), &account);

	if (failed == NULL)
		mc_account_store(connection, &account, false);
	return failed;
}

/* mc_refresh(_connection), behind the gate: as the extension's owner */
Datum
mc_refresh(PG_FUNCTION_ARGS)
{
	char *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	McReply *failed;

	SPI_connect();
	MC_SQL("SELECT mailchimp_sync.require_sending($1)", mc_arg_text(name));
	failed = refresh(name);
	if (failed != NULL)
		mc_reply_raise(failed);
	SPI_finish();
	PG_RETURN_VOID();
}

/*
 * ask_account(_connection, OUT outcome, OUT status, OUT title, OUT detail,
 * OUT retry_after_s): as mc_refresh, but what is wrong is the result. For
 * mc_check_connection, which is to tell about it, and works also where nothing
 * else is sent.
 */
Datum
mc_ask_account(PG_FUNCTION_ARGS)
{
	TupleDesc tupdesc;
	Datum values[5] = {0};
	bool nulls[5] = {false, false, true, true, true};
	char *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	MemoryContext context = CurrentMemoryContext;
	McReply *failed;

	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	SPI_connect();
	failed = refresh(name);
	MemoryContextSwitchTo(context);
	values[0] = CStringGetTextDatum(mc_outcome_name(failed ? failed->outcome : MC_ANSWERED));
	values[1] = Int32GetDatum(failed ? failed->status : 200);
	if (failed != NULL)
	{
		nulls[2] = failed->title == NULL;
		if (failed->title != NULL)
			values[2] = CStringGetTextDatum(failed->title);
		nulls[3] = failed->detail == NULL;
		if (failed->detail != NULL)
			values[3] = CStringGetTextDatum(failed->detail);
		nulls[4] = failed->retry_after_s < 0;
		values[4] = Int32GetDatum(failed->retry_after_s);
	}
	SPI_finish();
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc), values, nulls)));
}
