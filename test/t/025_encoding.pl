# Databases that are not UTF-8: names arrive at Mailchimp as what they are, what comes back and has no place here is
# stored without it, and a row that cannot be converted stops nobody else.

use strict;
use warnings;
use utf8;
use McTest;
use Test::More;

my $sim = McTest::Simulator->start;
my $node = McTest::Node->start('main', extension => 0, conf => "max_connections = 30\n");

# A client that speaks UTF-8 where the database can be converted, and plain bytes where it cannot.
sub make_database
{
	my ($name, $encoding, $client, $more) = @_;

	$node->query("CREATE DATABASE $name TEMPLATE template0 ENCODING '$encoding' LC_COLLATE 'C' LC_CTYPE 'C' " . ($more // ''));
	$node->query("ALTER DATABASE $name SET client_encoding = '$client'");
	my $demo = $sim->post('/_sim/demo', { key => "$name-us1", account_name => $name, login_id => $name });
	$node->query(
		"CREATE EXTENSION mailchimp_sync;
		CREATE TABLE person (id integer PRIMARY KEY, name text, email text);
		SELECT mc_connect('main', '$name-us1', endpoint => '" . $sim->url . "');
		SELECT mc_add_source('person', 'person', 'id', 'email', '{\"FNAME\": \"name\"}');
		SELECT mc_create_audience('people', 'main', 'Customers', 'person');
		SELECT mc_sync_audience('people')",
		db => $name);
	return $demo->{lists}[0]{id};
}

sub names
{
	my ($list) = @_;
	return { map { $_->{email_address} => $_->{merge_fields}{FNAME} } @{ $sim->get("/_sim/lists/$list/members")->{members} } };
}

# ---------------------------------------------------------------------------------------------------------------
# LATIN1: all of it can be converted, not all of UTF-8 back
# ---------------------------------------------------------------------------------------------------------------

my $latin = make_database('latin', 'LATIN1', 'UTF8');
$node->query(q{INSERT INTO person VALUES (1, U&'J\00FCrgen', 'j@crm.test'), (2, 'Ann', 'a@crm.test')}, db => 'latin');
$node->query('CALL mc_run()', db => 'latin');
is_deeply(names($latin), { 'j@crm.test' => 'Jürgen', 'a@crm.test' => 'Ann' }, 'LATIN1: the name is sent as UTF-8');
is($node->query("SELECT merge_fields ->> 'FNAME' = U&'J\\00FCrgen' FROM mc_member WHERE contact_key = '1'", db => 'latin'),
	't', 'and read back');

# somebody at Mailchimp gives the list a name and a field that LATIN1 cannot hold
$sim->post('/_sim/act', { list => $latin, email => 'a@crm.test', action => 'edit', merge_fields => { LNAME => 'Ann 😀 ü' } });
$node->query("UPDATE person SET name = 'Anna' WHERE id = 2", db => 'latin');
$node->query('CALL mc_run()', db => 'latin');
is($node->query("SELECT merge_fields ->> 'LNAME' = U&'Ann ? \\00FC' FROM mc_member WHERE contact_key = '2'", db => 'latin'),
	't', 'what the database cannot hold becomes a question mark');
is($node->query("SELECT string_agg(state, ' ') FROM mc_contact_state", db => 'latin'), 'in_sync in_sync', 'nobody is left over');

# ---------------------------------------------------------------------------------------------------------------
# SQL_ASCII: bytes that nobody knows anything of
# ---------------------------------------------------------------------------------------------------------------

my $bytes = make_database('bytes', 'SQL_ASCII', 'SQL_ASCII');
$node->query(q{INSERT INTO person VALUES (1, E'J\xC3\xBCrgen', 'j@crm.test'), (2, E'J\xFCrgen', 'k@crm.test'),
	(3, 'Ann', 'a@crm.test'), (4, 'Bob', E'b\xFCb@crm.test')}, db => 'bytes');
$node->query('CALL mc_run()', db => 'bytes');
is_deeply(names($bytes), { 'j@crm.test' => 'Jürgen', 'a@crm.test' => 'Ann' }, 'SQL_ASCII: bytes that are UTF-8 are sent');
is($node->query("SELECT contact_key, state, detail FROM mc_contact_state WHERE state <> 'in_sync' ORDER BY 1", db => 'bytes'),
	"2|refused|its data cannot be converted to UTF-8\n4|refused|its e-mail address is not valid",
	'the others are refused, each by itself');
$node->query("UPDATE person SET name = E'J\\xC3\\xBCrgen' WHERE id = 2", db => 'bytes');
$node->query('CALL mc_run()', db => 'bytes');
is(names($bytes)->{'k@crm.test'}, 'Jürgen', 'and go when their data are mended');

# ---------------------------------------------------------------------------------------------------------------
# Pages (N16) say that they are UTF-8 and are ASCII, whatever the database and the client speak
# ---------------------------------------------------------------------------------------------------------------

for (['latin', q{U&'J\00FCrgen'}, 'J&#252;rgen'], ['bytes', q{E'J\xC3\xBCrgen, J\xFCrgen'}, 'J&#252;rgen, J&#65533;rgen'])
{
	my ($db, $name, $shown) = @$_;
	$node->query("INSERT INTO mailchimp_sync.campaign (campaign_id, connection, list_id, name, marker, created_at, created_by)
		SELECT 1, 'main', list_id, $name, 'm1', now(), 'x' FROM mailchimp_sync.audience", db => $db);
	my $page = $node->query('SELECT mc_report_html(1)', db => $db);
	like($page, qr{<meta charset="utf-8">.*<h1><bdi>\Q$shown\E</bdi></h1>}s, "$db: the name is in the page as what it is");
	ok($page !~ /[^\x00-\x7F]/, "$db: the page is ASCII");
}
for (['win', 'WIN1252', q{E'\x80 \x81'}, '&#8364; &#65533;'], ['japan', 'EUC_JP', q{E'\xA4\xA2 \x8F\xA2\xAF'}, '&#12354; &#728;'])
{
	my ($db, $encoding, $text, $shown) = @$_;
	$node->query("CREATE DATABASE $db TEMPLATE template0 ENCODING '$encoding' LC_COLLATE 'C' LC_CTYPE 'C'");
	$node->query('CREATE EXTENSION mailchimp_sync', db => $db);
	is($node->query("SET client_encoding = '$encoding'; SELECT mailchimp_sync.html_escape($text)", db => $db), $shown, "$encoding: characters are numbers of Unicode");
}

# ---------------------------------------------------------------------------------------------------------------
# Turkish, where the small letter of "I" has no dot: Mailchimp's hash of an address is none the less that of "i" (D12)
# ---------------------------------------------------------------------------------------------------------------

SKIP: {
	skip 'no database with a locale of ICU', 3
	  if $node->query("SELECT current_setting('server_version_num')::integer < 150000
		OR NOT EXISTS (SELECT FROM pg_collation WHERE collprovider = 'i')") eq 't';
	my $turkish = make_database('turkish', 'UTF8', 'UTF8', "LOCALE_PROVIDER icu ICU_LOCALE 'tr'");
	my $there = sub {
		my %status = map { $_->{email_address} => $_->{status} } @{ $sim->get("/_sim/lists/$turkish/members")->{members} };
		return join ' ', map { "$_ $status{$_}" } sort keys %status;
	};
	is($node->query("SELECT lower('I') = 'i'", db => 'turkish'), 'f', 'Turkish');
	$node->query("INSERT INTO person VALUES (1, 'Iris', 'IRIS\@crm.test'), (2, 'Ivo', 'IVO\@crm.test')", db => 'turkish');
	$node->query('CALL mc_run()', db => 'turkish');
	is($there->(), 'IRIS@crm.test subscribed IVO@crm.test subscribed', 'both are there');
	$node->query("SELECT mc_opt_out('person', 1); DELETE FROM person WHERE id = 2", db => 'turkish');
	$node->query('CALL mc_run()', db => 'turkish');
	is($there->(), 'IRIS@crm.test unsubscribed IVO@crm.test archived', 'the one opts out, the other leaves');
}

done_testing();
