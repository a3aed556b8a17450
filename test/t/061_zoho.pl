# Zoho's way, the third of docs/examples.md: lists and campaigns come into the CRM, changes go both ways (R17, R82-R95, R97,
# R98, R113, D14). Played section by section; after each one what became of it at Mailchimp.

use strict;
use warnings;
use McGuide;
use McTest;
use Test::More;

my $sim = McTest::Simulator->start;
my $account = $sim->post('/_sim/demo', { lists => [
	map { { name => $_, campaign_defaults => { from_name => 'Sales', from_email => lc($_) . '@example.org', subject => '', language => 'en' } } } qw(Newsletter Webinar Private) ] });
my ($news, $webinar, $private) = map { $_->{id} } @{ $account->{lists} };
my $node = McTest::Node->start('main', extension => 0);
my $guide = McGuide->new('docs/examples.md', chapter => 'Zoho: both ways', node => $node, sim => $sim, key => 'demo-us1');

sub act { my ($list, $action, $email, %more) = @_; return $sim->post('/_sim/act', { list => $list, action => $action, email => $email, %more }) }
sub name { my ($first, $last) = @_; return (merge_fields => { FNAME => $first, LNAME => $last }) }
sub member { my ($list, $email) = @_; return (grep { $_->{email_address} eq $email } @{ $sim->get("/_sim/lists/$list/members")->{members} })[0] // {} }

# Who is asked about and written at Mailchimp since the last call, but for reading.
my $since = 0;
sub written
{
	my @entries = $sim->journal(since => $since);
	$since = $entries[-1]{n} if @entries;
	return join ', ', map { $_->{body} && $_->{body}{members} ? 'pushed ' . join ' ', map { $_->{email_address} } @{ $_->{body}{members} } : "$_->{method} $_->{route}" }
		grep { $_->{method} ne 'GET' } @entries;
}

# -----------------------------------------------------------------------------------------------------------------
# At Mailchimp before
# -----------------------------------------------------------------------------------------------------------------

act($news, 'add', 'sara@smits.example.org', name('S.', 'Smits'));
act($news, 'add', 'vera@vos.example.org', name('Vera', 'Vos'));
act($news, 'add', 'wim@wolf.example.org', name('Wim', 'Wolf'));
act($news, 'unsubscribe', 'wim@wolf.example.org');
act($webinar, 'add', 'UMA@uil.example.org', name('Uma', 'Uil-Das'));
act($webinar, 'add', 'xander@xu.example.org', name('Xander', 'Xu'));
act($private, 'add', 'yara@yp.example.org', name('Yara', 'Yp'));
my ($made) = $sim->post('/_sim/act', { account => $account->{account_id}, action => 'add_campaigns', campaigns => [
	{ list => $news, title => 'Welcome', subject => 'Welcome', from_name => 'Sales', reply_to => 'newsletter@example.org', html => '<p>Hello</p>', sent => '2026-01-05T09:00:00+00:00' },
	{ list => $private, title => 'Draft', subject => 'Soon' } ] });

# -----------------------------------------------------------------------------------------------------------------
# Played
# -----------------------------------------------------------------------------------------------------------------

$guide->play($_) for "The company's tables", 'The key comes later', 'Which lists, and which way', 'The first time';
is(written(), 'pushed sara@smits.example.org tom@tuin.example.org', 'R85, R93: the CRM has the say about whom it knows; who came in is not sent back, a list that only comes in gets nothing');
is(member($news, 'sara@smits.example.org')->{merge_fields}{FNAME}, 'Sara', 'R85: at Mailchimp, too');
is($node->query("SELECT count(*) FROM sales.contact WHERE email IN ('wim\@wolf.example.org', 'yara\@yp.example.org')"), 0, 'R83: nobody of other lists, and nobody new who left');
$guide->play('The lists as a module');
is(written(), 'pushed uma@uil.example.org', 'R94: a lead in the list');

act($news, 'edit', 'sara@smits.example.org', name('Saar', 'Smits-Tuin'));
act($news, 'add', 'zoe@zon.example.org', name('Zoe', 'Zon'));
act($news, 'unsubscribe', 'vera@vos.example.org');
$guide->later(120);
$guide->play('Both have changed something');
$guide->later(660);
$guide->play('Ten minutes later');
is(member($news, 'sara@smits.example.org')->{merge_fields}{ $_->[0] }, $_->[1], "R85, D14: the CRM wins, $_->[0] at Mailchimp") for [ FNAME => 'Sarah' ], [ LNAME => 'Smits' ];
is($node->query('SELECT email, origin FROM mc_group_member', as => 'ron'), 'vera@vos.example.org|mailchimp', 'D14: not about a no');
$guide->play('Who signed up, who left, who changed');
written();
$guide->play('Campaigns that marketing makes at Mailchimp');
$guide->play('Should it ever go');
is(written(), '', 'R98: nothing at Mailchimp is touched by that');
$guide->done;
done_testing();
